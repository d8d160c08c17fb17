"""Pods that are to join a run while it trains: all of one set, or none.

They prepare beside the run and take part from one step to the next, all together; ready means that they do. A
set that does not get there in time, or loses a pod on the way, is taken back and the run goes on as it was.
"""

from __future__ import annotations

from datetime import timedelta

from cra_operator.lifecycle import backoff, ending, gang, replacing, resizing
from cra_operator.lifecycle.draft import Draft
from cra_operator.lifecycle.failures import examine
from cra_operator.lifecycle.measured import as_worker, note_strength
from cra_operator.lifecycle.startup import Obstacle, obstacle
from cra_operator.lifecycle.words import count
from cra_operator.sizing import Cohort, Size
from cra_operator.world import World

UNPLACED = timedelta(seconds=30)
"""How long the scheduler may look for nodes: GPUs of those that found one stand idle meanwhile."""


def expected(world: World, draft: Draft) -> Size:
    """The GPUs that the run has and those set aside for pods that join it."""
    workers = len(draft.get("workers"))
    if draft.get("run").joining is not None:
        workers += len(_cohort(world).ranks if world.joining is not None else world.openings)
    return Size(workers=workers, gpus_per_worker=world.size.gpus_per_worker)


def begin(world: World, draft: Draft) -> None:
    """Create pods for all openings; what is left of earlier ones goes."""
    generation = world.generation + 1
    cohort = Cohort(
        run=world.run, generation=generation, size=world.goal, ranks=world.openings, avoid=world.avoided
    )
    draft.set(generation=generation)
    draft.set_run(joining=generation)
    _announce(world, draft, cohort)
    gang.create(world, draft, cohort)
    gang.delete(draft, world.strays)
    draft.look_again(world.now + timedelta(seconds=world.job.spec.startup_deadline_seconds))


def _announce(world: World, draft: Draft, cohort: Cohort) -> None:
    kind, message = _kind(world, cohort), _change(world, cohort)
    if kind == "Growing":
        message = resizing.announce(world, draft, cohort.size, message)
    draft.set(retry_after=None)
    draft.condition("Rescaling", True, kind, message)
    draft.tell("Rescaling" if kind == "Growing" else kind, message)
    note_strength(draft, world.size, message)


def _kind(world: World, cohort: Cohort) -> str:
    return "Growing" if cohort.size != world.size else "Replacing"


def _change(world: World, cohort: Cohort) -> str:
    size, listed = world.size, len(world.job.status.workers)
    before = Size(workers=listed, gpus_per_worker=size.gpus_per_worker) if cohort.size == size else size
    return f"from {before} to {cohort.size} while training goes on"


def superseded(world: World) -> bool:
    """Whether another size is wanted by now than the one that the newcomers are for."""
    goal = _cohort(world).size
    if goal == world.size:
        return world.wanted.workers < goal.workers
    return world.wanted != goal


def tend(world: World, draft: Draft) -> None:
    """Complete the newcomers, take them back, or take them in."""
    cohort = _cohort(world)
    there = {pod.rank for pod in world.newcomers}
    missing = tuple(rank for rank in cohort.ranks if rank not in there)
    if world.refusal is not None:
        _roll_back(world, draft, cohort, ending.refused(world.refusal).message)
        return
    broken = examine(world.newcomers, missing=missing if world.is_known else (), now=world.now)
    if broken is not None and broken.failure is not None:
        _roll_back(world, draft, cohort, broken.failure.message)
    elif broken is not None and broken.unclear_until is not None:
        draft.look_again(broken.unclear_until)
    elif not cohort.ranks:
        _roll_back(world, draft, cohort, "the new pods were deleted by someone else")
    elif world.is_known and all(pod.ready for pod in world.newcomers):
        _take_in(world, draft, cohort)
    else:
        _wait(world, draft, cohort, missing)


def _cohort(world: World) -> Cohort:
    """The newcomers as they were meant to be; of no rank if none is left to tell."""
    assert world.joining is not None
    told = world.newcomers[0] if world.newcomers else None
    each = world.size.gpus_per_worker
    size = Size(workers=told.workers, gpus_per_worker=each) if told is not None else world.goal
    ranks = told.joining if told is not None else ()
    return Cohort(run=world.run, generation=world.joining, size=size, ranks=ranks, avoid=world.avoided)


def _wait(world: World, draft: Draft, cohort: Cohort, missing: tuple[int, ...]) -> None:
    pods = world.newcomers
    limit = timedelta(seconds=world.job.spec.startup_deadline_seconds)
    began = min(pod.created for pod in pods)
    trouble = obstacle(pods, world.now)
    unplaced = trouble is not None and trouble.reason == "Unschedulable"
    deadline = began + (min(limit, UNPLACED) if unplaced else limit)
    ready = f"{sum(pod.ready for pod in pods)} of {count(len(cohort.ranks), 'new worker')} ready"
    if world.now >= deadline:
        why = f"{ready} after {(world.now - began).total_seconds():.0f} s"
        _roll_back(world, draft, cohort, f"{why}: {trouble.message}" if trouble is not None else why)
        return
    if not world.is_known:
        _announce(world, draft, cohort)
        gang.create(world, draft, cohort, missing)
        draft.look_again(draft.now)
    draft.look_again(deadline)
    text = ": ".join(filter(None, (_change(world, cohort), ready, _seen(trouble, world, draft))))
    decision = draft.get("last_decision")
    decided = _kind(world, cohort) == "Growing" and decision is not None and decision.policy is not None
    why = f" ({decision.message})" if decided else ""
    draft.condition("Rescaling", True, _kind(world, cohort), f"{text}{why}")
    note_strength(draft, world.size, text)


def _seen(trouble: Obstacle | None, world: World, draft: Draft) -> str:
    if trouble is None:
        return ""
    if trouble.since > world.now:
        draft.look_again(trouble.since)
        return ""
    return trouble.message


def _take_in(world: World, draft: Draft, cohort: Cohort) -> None:
    """All are ready, which they are only once they train."""
    joined = [as_worker(world, pod) for pod in world.newcomers]
    workers = sorted([*draft.get("workers"), *joined], key=lambda worker: worker.rank)
    draft.set(workers=workers)
    draft.set_run(gpus=cohort.size.gpus, joining=None, missed_gpus=None)
    if _kind(world, cohort) == "Growing":
        draft.set_run(setbacks=None)
        draft.set(rescales=draft.get("rescales") + 1)
        resizing.note_resized(draft, f"{world.size.gpus} → {cohort.size}", "while training went on")
    else:
        text = f"{len(workers)} of {count(cohort.size.workers, 'worker')} train again"
        draft.condition("Rescaling", False, "Replaced", text)
        draft.tell("Replaced", text)
        if len(workers) == cohort.size.workers:
            draft.condition("Degraded", False, "AsExpected")
    note_strength(draft, cohort.size)
    gang.delete(draft, world.strays)
    draft.look_again(draft.now)


def dismiss(world: World, draft: Draft) -> None:
    """Send the newcomers away, if there are any: they are not wanted any more."""
    gang.delete(draft, (pod for pod in world.newcomers if not pod.ended))
    draft.set(retry_after=None)
    draft.set_run(joining=None, missed_gpus=None, setbacks=None)
    draft.look_again(draft.now)


def _roll_back(world: World, draft: Draft, cohort: Cohort, why: str) -> None:
    """Take the newcomers back; they are tried again after a wait, or as soon as another size is wanted."""
    run = world.job.status.run
    setbacks = 1 + ((run and run.setbacks) or 0)
    wait = backoff.delay(counted=True, failures=setbacks, restarts=setbacks, ran=timedelta())
    message = f"keeps {world.size}: {why}; tried again in {wait.total_seconds():.0f} s"
    if cohort.size != world.size:
        resizing.note_decision(draft, cohort.size.gpus, world.size.gpus, "RolledBack", message)
        draft.set(desired_gpus=world.size.gpus)
    draft.set(retry_after=world.now + wait)
    draft.set_run(joining=None, missed_gpus=cohort.size.gpus, setbacks=setbacks)
    if cohort.avoid:
        replacing.take_any_node(draft)
    draft.condition("Rescaling", False, "RolledBack", message)
    draft.tell("RolledBack", message, warning=True)
    note_strength(draft, world.size, message)
    gang.delete(draft, (pod for pod in world.newcomers if not pod.ended))
    draft.look_again(world.now + wait)
