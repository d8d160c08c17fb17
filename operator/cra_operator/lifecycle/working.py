"""A run at work: starting, training, changing its size, leaving for a rest."""

from __future__ import annotations

from datetime import timedelta

from cra_operator.lifecycle import ending, gang, live, measured, resizing, waiting
from cra_operator.lifecycle.draft import Draft
from cra_operator.lifecycle.failures import examine
from cra_operator.lifecycle.startup import obstacle
from cra_operator.lifecycle.words import count
from cra_operator.world import World


def tend_run(world: World, draft: Draft) -> None:
    """Do the first of these that applies: finish, give up, leave, change size, start, train."""
    report = measured.note_report(draft, world.current)
    if world.phase == "Starting" and not world.is_known:
        waiting.leave_rest(world, draft)
        waiting.note_start(world, draft, world.generation, world.size)
    if ending.has_succeeded(world):
        ending.succeed(world, draft, report)
    elif ending.deadline_passed(world, draft):
        ending.fail(world, draft, ending.deadline_failure(world))
    elif world.job.spec.suspend or world.phase == "Suspending":
        gang.send_away(world, draft)
        waiting.rest(world, draft)
    elif world.phase == "Rescaling":
        resizing.finish_by_checkpoint(world, draft)
    elif world.phase == "Running" and world.elastic:
        live.tend(world, draft)
    elif world.refusal is not None and world.phase == "Starting":
        ending.give_up(world, draft, ending.refused(world.refusal))
    else:
        _tend_workers(world, draft)


def _tend_workers(world: World, draft: Draft) -> None:
    # The status knows of a generation once all its pods were created: a rank without one has been taken away.
    missing = world.missing if world.is_known else ()
    broken = examine(world.current, missing=missing, now=world.now)
    draft.holding = world.size
    if world.phase == "Running":
        live.call_off(world, draft)
    if broken is not None and broken.failure is not None:
        ending.give_up(world, draft, broken.failure)
    elif broken is not None and broken.unclear_until is not None:
        draft.set(message="a worker lost a peer: looking for the cause")
        draft.look_again(broken.unclear_until)
    elif world.verdict is not None and world.verdict.fits:
        resizing.begin_by_checkpoint(world, draft)
    elif world.phase == "Starting":
        _tend_start(world, draft)
        resizing.note_wish(world, draft)
    else:
        measured.note_training(world, draft)
        resizing.note_wish(world, draft)


def _tend_start(world: World, draft: Draft) -> None:
    draft.set(phase="Starting")
    waiting.explain_admission(world, draft, True, "Admitted", f"{world.size} set aside")
    if world.is_known and all(pod.ready or pod.phase == "Succeeded" for pod in world.current):
        _run(world, draft)
        return
    ready = sum(pod.ready for pod in world.current)
    began = min((pod.created for pod in world.current), default=world.now)
    deadline = began + timedelta(seconds=world.job.spec.startup_deadline_seconds)
    trouble = obstacle(world.current, world.now)
    if world.now >= deadline:
        ending.give_up(world, draft, ending.too_late(world, ready, trouble))
        return
    if not world.is_known:
        gang.complete(world, draft)
    draft.look_again(deadline)
    message = f"{ready} of {count(world.size.workers, 'worker')} ready"
    if trouble is not None and trouble.since > world.now:
        draft.look_again(trouble.since)
    if trouble is None or trouble.since > world.now:
        draft.set(message=message)
        draft.condition("Degraded", False, "AsExpected")
    else:
        draft.set(message=trouble.message)
        draft.condition("Degraded", True, trouble.reason, trouble.message)
        if not draft.was("Degraded", trouble.reason):
            draft.tell(trouble.reason, trouble.message, warning=True)
    draft.condition("Running", False, "Starting", message)


def _run(world: World, draft: Draft) -> None:
    """All workers are ready: the start is over."""
    message = f"generation {world.generation} trains on {world.size}"
    measured.note_training(world, draft)
    draft.set(running_time=world.job.status.running_time or world.now)
    draft.condition("Running", True, "Training", message)
    draft.condition("Degraded", False, "AsExpected")
    draft.tell("Running", message)
    if world.job.status.is_true("Rescaling"):
        resizing.note_resized(draft, f"now {world.size},", "by way of a checkpoint and a restart")
