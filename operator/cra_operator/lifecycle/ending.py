"""How a generation or a whole job ends: success, another try, failure, and the time to live after that."""

from __future__ import annotations

from datetime import timedelta
from typing import Literal

from cra_operator.actions import DeleteJob, Refusal
from cra_operator.api import ErrorResult, Progress, Result
from cra_operator.lifecycle import backoff, gang
from cra_operator.lifecycle.draft import Draft
from cra_operator.lifecycle.failures import EXIT_LEFT, EXIT_PEER_LOST, Failure
from cra_operator.lifecycle.report import CHECKPOINT_FAILED, Report
from cra_operator.lifecycle.startup import Obstacle
from cra_operator.lifecycle.words import clip, count
from cra_operator.view import PodView, is_live
from cra_operator.world import World

_LONGEST_PATH = 1024
_MOST_METRICS = 64
_MOST_CLASSES, _LONGEST_NAME = 256, 256


def has_succeeded(world: World) -> bool:
    """Rank 0 finished and all other workers are over: finished too, gone after that, or left alone by those
    who were. An elastic run may have lost some on its way, whatever of: it went on without them.
    """
    if world.leader is None or world.leader.phase != "Succeeded":
        return False
    if world.elastic:
        return not any(is_live(pod, world.nodes, world.now) for pod in world.current)
    return all(map(_finished, world.current))


def _finished(pod: PodView) -> bool:
    left_alone = pod.exit is not None and pod.exit.code in (EXIT_LEFT, EXIT_PEER_LOST)
    return pod.phase == "Succeeded" or (pod.phase == "Failed" and left_alone)


def succeed(world: World, draft: Draft, report: Report | None) -> None:
    """The job is done."""
    progress: Progress | None = draft.get("progress")
    if progress is not None:
        draft.set(progress=progress.model_copy(update={"ratio": 1.0, "eta_seconds": 0.0}))
    result = _result(report, progress)
    message = f"finished on {world.size}"
    if result.metrics:
        message += ": " + ", ".join(f"{name} {value:.4g}" for name, value in sorted(result.metrics.items()))
    draft.set(result=result)
    _finish(world, draft, "Succeeded", "Finished", message)
    draft.condition("Degraded", False, "AsExpected")
    draft.tell("Succeeded", message)
    if report is not None and report.checkpoint_failure is not None:
        lost = f"the end of the training is not saved: {report.checkpoint_failure}"
        draft.condition("Degraded", True, CHECKPOINT_FAILED, lost)
        draft.tell(CHECKPOINT_FAILED, lost, warning=True)


def _result(report: Report | None, progress: Progress | None) -> Result:
    """The result as far as rank 0 told it; a plain script tells none."""
    if report is None:
        return Result()
    metrics = dict(list(report.metrics.items())[:_MOST_METRICS])
    return Result(
        metrics=metrics or None,
        samples_per_second=report.samples_per_second,
        samples=progress.samples if progress is not None else None,
        steps=progress.step if progress is not None else None,
        seconds=report.seconds,
        checkpoint=clip(report.checkpoint_path, _LONGEST_PATH) if report.checkpoint_path else None,
        ranks=list(report.ranks) or None,
        classes=[
            one.model_copy(update={"name": clip(one.name, _LONGEST_NAME)})
            for one in report.classes[:_MOST_CLASSES]
        ]
        or None,
    )


def fail(world: World, draft: Draft, failure: Failure) -> None:
    """The job has failed for good."""
    note_error(draft, failure)
    _finish(world, draft, "Failed", failure.reason, failure.message)
    draft.condition("Degraded", True, failure.reason, failure.message)
    draft.tell(failure.reason, failure.message, warning=True)


def _finish(
    world: World, draft: Draft, phase: Literal["Succeeded", "Failed"], reason: str, message: str
) -> None:
    draft.holding = None
    draft.set(phase=phase, message=message, completion_time=world.now, retry_after=None, queue_position=None)
    draft.condition("Admitted", False, phase)
    draft.condition("Running", False, phase)
    draft.condition(phase, True, reason, message)
    if world.job.status.is_true("Rescaling"):
        draft.condition("Rescaling", False, phase)
    keep_until_deleted(world, draft)


def give_up(world: World, draft: Draft, failure: Failure) -> None:
    """End the run for this cause: start again after a wait, or fail the job."""
    status = world.job.status
    failures = counted(world, draft, failure)
    if failures is None:
        return
    restarts = (status.restarts or 0) + 1
    began = min((pod.created for pod in world.current), default=world.now)
    wait = backoff.delay(counted=failure.counted, failures=failures, restarts=restarts, ran=world.now - began)
    message = f"{failure.message} ({tally(world, failure, failures)}, again in {wait.total_seconds():.0f} s)"
    draft.holding = None
    draft.set(phase="Restarting", message=message, restarts=restarts, retry_after=world.now + wait)
    draft.condition("Admitted", False, "BackOff")
    draft.condition("Running", False, failure.reason, failure.message)
    draft.condition("Degraded", True, failure.reason, failure.message)
    if status.is_true("Rescaling"):
        draft.condition("Rescaling", False, failure.reason)
    draft.tell(failure.reason, message, warning=True)
    draft.look_again(world.now + wait)
    note_error(draft, failure)
    gang.send_away(world, draft)


def counted(world: World, draft: Draft, failure: Failure) -> int | None:
    """Count the failure if it counts: the number so far, or None if the job failed of it for good."""
    failures = (world.job.status.failures or 0) + failure.counted
    draft.set(failures=failures)
    if not failure.fatal and failures <= world.job.spec.backoff_limit:
        return failures
    fail(world, draft, failure)
    return None


def tally(world: World, failure: Failure, failures: int) -> str:
    """How much of `backoffLimit` is used up, if this used up any."""
    limit = world.job.spec.backoff_limit
    return f"failure {failures} of {limit} allowed" if failure.counted else "not the job's fault"


def note_error(draft: Draft, failure: Failure) -> None:
    """Keep the cause of the last failure."""
    error = ErrorResult(
        rank=failure.rank,
        pod=failure.pod,
        reason=failure.reason,
        message=clip(failure.error or failure.message),
        where=clip(failure.where, _LONGEST_PATH) if failure.where else None,
    )
    draft.set(result=Result(error=error))


def keep_until_deleted(world: World, draft: Draft) -> None:
    """Send away what still lives; delete the job when its time to live is over."""
    gang.send_away(world, draft)
    ttl, end = world.job.spec.ttl_seconds_after_finished, draft.get("completion_time")
    if ttl is None or end is None:
        return
    expiry = end + timedelta(seconds=ttl)
    if world.now >= expiry:
        draft.do(DeleteJob())
    else:
        draft.look_again(expiry)


def deadline_passed(world: World, draft: Draft) -> bool:
    """Whether `activeDeadlineSeconds` are over; if not yet, the job is looked at again when they are."""
    limit, start = world.job.spec.active_deadline_seconds, draft.get("start_time")
    if limit is None or start is None or world.job.spec.suspend:
        return False
    deadline = start + timedelta(seconds=limit)
    draft.look_again(deadline)
    passed: bool = world.now >= deadline
    return passed


def deadline_failure(world: World) -> Failure:
    """The job took too long."""
    limit = world.job.spec.active_deadline_seconds
    return Failure(
        reason="DeadlineExceeded",
        message=f"not finished within activeDeadlineSeconds ({limit} s)",
        fatal=True,
    )


def too_late(world: World, ready: int, trouble: Obstacle | None) -> Failure:
    """The generation did not start in time; pointless to repeat if the job's own text is at fault."""
    limit = world.job.spec.startup_deadline_seconds
    why = f": {trouble.message}" if trouble is not None else ""
    return Failure(
        reason="StartupDeadlineExceeded",
        message=f"{ready} of {count(world.size.workers, 'worker')} ready after {limit} s{why}",
        rank=trouble.rank if trouble is not None else None,
        pod=trouble.pod if trouble is not None else None,
        error=trouble.message if trouble is not None else None,
        fatal=trouble is not None and trouble.fatal,
    )


def refused(refusal: Refusal) -> Failure:
    """What is invalid stays so; what is forbidden (by a quota, say) or in the way may not."""
    if refusal.status == 409:
        return Failure(reason="NameTaken", message=refusal.message, counted=False)
    invalid = refusal.status == 422
    return Failure(
        reason=f"{refusal.kind}{'Invalid' if invalid else 'Forbidden'}",
        message=f"the API server refuses a {refusal.kind}: {refusal.message}",
        counted=invalid,
        fatal=invalid,
    )
