"""A job without a generation at work: in line, backing off, at rest, or starting one."""

from __future__ import annotations

from datetime import timedelta

from cra_operator.admission import Verdict
from cra_operator.api import RunStatus
from cra_operator.lifecycle import ending, gang
from cra_operator.lifecycle.draft import Draft
from cra_operator.lifecycle.notices import not_effective
from cra_operator.lifecycle.words import count
from cra_operator.sizing import Cohort, Size
from cra_operator.world import World

_LOOK_AGAIN = timedelta(seconds=1)


def start_or_wait(world: World, draft: Draft) -> None:
    """Do the first of these that applies: rest, fail, back off, wait for old pods, stand in line, start."""
    status = world.job.status
    gang.send_away(world, draft)
    draft.set(desired_gpus=world.wanted.gpus, queue_position=None, start_estimate=None)
    if world.job.spec.suspend:
        rest(world, draft)
        return
    leave_rest(world, draft)
    if ending.deadline_passed(world, draft):
        ending.fail(world, draft, ending.deadline_failure(world))
    elif status.retry_after is not None and world.now < status.retry_after:
        draft.look_again(status.retry_after)
    elif world.live or world.leftovers:
        pods = count(len(world.live) + world.leftovers, "earlier pod")
        phase = "Restarting" if status.phase == "Restarting" else "Pending"
        draft.set(phase=phase, message=f"waiting for {pods} to end")
    elif world.refusal is not None:
        draft.set(phase=status.phase or "Pending", message=world.refusal.message)
        draft.look_again(world.now + _LOOK_AGAIN)
    elif world.verdict is not None:
        _admit(world, draft, world.verdict)


def rest(world: World, draft: Draft) -> None:
    """Be suspended: as soon as the last pod has ended, the job holds nothing."""
    leaving = len(world.live)
    phase = "Suspending" if leaving else "Suspended"
    message = f"{count(leaving, 'pod')} still to end" if leaving else "holds no GPUs; its checkpoint is kept"
    draft.set(phase=phase, message=message, retry_after=None, queue_position=None)
    if not leaving:
        draft.set(workers=[])
    for kind in ("Admitted", "Running"):
        draft.condition(kind, False, phase)
    draft.condition("Degraded", False, "AsExpected")
    draft.condition("Suspended", not leaving, phase, message)
    if world.job.status.is_true("Rescaling"):
        draft.condition("Rescaling", False, phase)
    if phase != world.job.status.phase:
        draft.tell(phase, message)


def _admit(world: World, draft: Draft, verdict: Verdict) -> None:
    if verdict.size is not None:
        start_run(world, draft, verdict.size)
        return
    start = world.target.start if world.target is not None else None
    draft.set(phase="Pending", message=verdict.message, queue_position=verdict.position, retry_after=None)
    draft.set(start_estimate=start)
    explain_admission(world, draft, False, "WaitingForGPUs", verdict.message)
    draft.condition("Running", False, "WaitingForGPUs")
    if world.job.status.condition("Degraded") is None:
        draft.condition("Degraded", False, "AsExpected")
    if not draft.was("Admitted", "WaitingForGPUs"):
        draft.tell("WaitingForGPUs", verdict.message)


def leave_rest(world: World, draft: Draft) -> None:
    """A suspended job is one no more."""
    rested, start = world.job.status.condition("Suspended"), world.job.status.start_time
    if rested is None or rested.status != "True":
        return
    draft.condition("Suspended", False, "Resumed")
    draft.tell("Resumed", "goes on from its checkpoint")
    if start is not None:
        # The time at rest does not count against the deadline: the start moves along.
        draft.set(start_time=start + (world.now - rested.last_transition_time))


def start_run(world: World, draft: Draft, size: Size) -> None:
    """Begin a run: create all its pods at once."""
    generation = world.generation + 1
    note_start(world, draft, generation, size)
    draft.set(workers=[])
    ranks = tuple(range(size.workers))
    gang.create(world, draft, Cohort(run=generation, generation=generation, size=size, ranks=ranks))
    draft.look_again(world.now + timedelta(seconds=world.job.spec.startup_deadline_seconds))


def note_start(world: World, draft: Draft, generation: int, size: Size) -> None:
    """Write down that a run starts: one that is begun now, or one that a crash left without a note."""
    status = world.job.status
    draft.holding = size
    draft.set(
        phase="Starting",
        message=f"starting {size}",
        generation=generation,
        run=RunStatus(gpus=size.gpus),
        desired_gpus=size.gpus,
        start_time=draft.get("start_time") or world.now,
        rescales=(status.rescales or 0) + (status.phase == "Rescaling"),
        retry_after=None,
        queue_position=None,
        start_estimate=None,
    )
    explain_admission(world, draft, True, "Admitted", f"{size} set aside")
    draft.condition("Running", False, "Starting")
    draft.condition("Degraded", False, "AsExpected")
    draft.tell("Started", f"generation {generation} with {size}{_why(world)}{_where(world)}")


def _why(world: World) -> str:
    """Why the run begins with more than it asked for, in words."""
    return f", {world.verdict.message}" if world.verdict is not None and world.verdict.message else ""


def _where(world: World) -> str:
    """The type of GPU that the run is to be on, in words."""
    if world.gpu_type is None:
        return ""
    message = world.target.message if world.target is not None else f"new workers prefer {world.gpu_type}"
    return f"; {message}"


def explain_admission(world: World, draft: Draft, holds: bool, reason: str, message: str) -> None:
    """Set Admitted; settings without effect are repeated here, where they stay visible."""
    ignored = not_effective(world.job.spec)
    if ignored:
        message += "; without effect in this release: " + ", ".join(ignored)
    draft.condition("Admitted", holds, reason, message)
