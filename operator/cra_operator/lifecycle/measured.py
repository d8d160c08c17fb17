"""The measured part of the status: GPUs, workers, progress, GPU-seconds, what metrics and last words tell."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cra_operator.api import CheckpointStatus, WorkerStatus
from cra_operator.controller.observation import Observation, WorkerSample
from cra_operator.controller.reward import reward
from cra_operator.controller.speeds import learn, learn_types
from cra_operator.lifecycle.draft import Draft
from cra_operator.lifecycle.report import CHECKPOINT_FAILED, Report, parse
from cra_operator.sizing import Size, gpus_per_worker
from cra_operator.view import PodView, holds_gpus
from cra_operator.world import World

STRAGGLER = "Straggler"


def note_pods(world: World, draft: Draft) -> None:
    """GPUs held by all pods, GPU-seconds, and the workers."""
    draft.set(gpus=sum(pod.gpus for pod in world.pods if holds_gpus(pod)))
    _note_gpu_seconds(world, draft)
    if world.current:
        known = {worker.pod: worker for worker in world.job.status.workers}
        draft.set(workers=[as_worker(world, pod, known.get(pod.name)) for pod in world.current])


def _note_gpu_seconds(world: World, draft: Draft) -> None:
    """Add what was burnt since the total was last written down.

    A GPU is paid for from the moment the pod is bound until its container ends. Total and time are written
    together and the time has the API's resolution, so nothing is counted twice or left out, whichever looks
    were written and whatever died in between. Pods that leave are seen on their way out; a worker that is
    gone without that is taken to have worked until now.
    """
    status = world.job.status
    since, until = status.gpu_seconds_time, world.now.replace(microsecond=0)
    present = {pod.name for pod in world.pods}
    vanished = [w for w in status.workers if w.pod not in present and w.node and status.phase == "Running"]
    if not world.pods and not vanished:
        return
    total = status.gpu_seconds or 0.0
    for pod in world.pods:
        if pod.scheduled is not None:
            end = (pod.exit.finished if pod.ended and pod.exit else None) or until
            start = pod.scheduled if since is None else max(since, pod.scheduled)
            total += pod.gpus * max(0.0, (end - start).total_seconds())
    if since is not None:
        total += sum(w.gpus or 0 for w in vanished) * max(0.0, (until - since).total_seconds())
    draft.set(gpu_seconds=round(total, 1), gpu_seconds_time=until)


def as_worker(world: World, pod: PodView, known: WorkerStatus | None = None) -> WorkerStatus:
    """The worker behind a pod; its measurements are carried on."""
    node = world.nodes.get(pod.node)
    kept = known.model_dump() if known is not None else {}
    return WorkerStatus.model_validate(
        {
            **kept,
            "rank": pod.rank,
            "pod": pod.name,
            "node": pod.node or None,
            "gpus": pod.gpus,
            "gpu_type": (node.gpu_type or None) if node is not None else None,
        }
    )


def note_training(world: World, draft: Draft) -> None:
    """The run trains: on how many GPUs, and what its metrics and last words say."""
    draft.set(phase="Running")
    note_observation(world, draft)
    note_report(draft, world.current)
    note_strength(draft, world.size)


def note_strength(draft: Draft, size: Size, more: str = "") -> None:
    """Say on how many of its GPUs a run of this size trains."""
    training = sum(worker.gpus or 0 for worker in draft.get("workers"))
    text = f"training on {size if training >= size.gpus else f'{training} of {size}'}"
    draft.set(message=f"{text}; {more}" if more else text)


def note_observation(world: World, draft: Draft) -> None:
    """What the metrics say. When they are missing the last values stay, and the condition says so."""
    seen = world.observation
    if seen is None or seen.run != world.run:
        return
    draft.condition("MetricsAvailable", seen.available, seen.reason, seen.message)
    if not seen.available:
        return
    workers = [_measured(worker, seen.workers.get(worker.pod or "")) for worker in draft.get("workers")]
    draft.set(workers=workers)
    if seen.progress is not None:
        draft.set(progress=seen.progress)
    if seen.pause_seconds is not None:
        draft.set(pause_seconds=seen.pause_seconds)
    if seen.utilization is not None:
        draft.set(utilization=seen.utilization)
    if seen.checkpoint is not None:
        draft.set(last_checkpoint=seen.checkpoint)
    if seen.batch_size is not None:
        draft.set(batch_size=seen.batch_size)
    if seen.noise_scale is not None:
        draft.set(noise_scale=seen.noise_scale)
    _note_pace(world, draft, seen)
    _note_failing_checkpoints(world, draft, failing=seen.checkpoint_failing)
    if not seen.checkpoint_failing:
        _note_stragglers(world, draft)


def _note_pace(world: World, draft: Draft, seen: Observation) -> None:
    """Speeds and reward, where the look was at the workers that train now."""
    spec, workers = world.job.spec, draft.get("workers")
    if seen.pace is None or seen.pace.pods != {worker.pod for worker in workers}:
        return
    batch = spec.training.batch_size
    speeds = learn(draft.get("speeds"), seen, workers, batch)
    value = reward(
        seen,
        objective=spec.objective,
        speeds=speeds,
        workers=workers,
        worker_gpus=gpus_per_worker(spec.scaling),
        base_batch=batch,
    )
    draft.set(speeds=speeds, gpu_types=learn_types(draft.get("gpu_types"), seen, workers), reward=value)


def _note_failing_checkpoints(world: World, draft: Draft, *, failing: bool) -> None:
    """A checkpoint that cannot be written is a condition, unless a worse one holds; training goes on."""
    newest: CheckpointStatus | None = draft.get("last_checkpoint")
    left = f"step {newest.step} is the newest one" if newest is not None else "there is none yet"
    leader = next((worker.pod for worker in draft.get("workers") if worker.rank == 0), None)
    message = (
        f"the last checkpoint could not be written, {left}; training goes on. "
        f"Make room or give access: `kubectl logs {leader}` says what was refused"
    )
    over = ("CheckpointWritten", "checkpoints can be written again")
    _note_trouble(world, draft, CHECKPOINT_FAILED, message if failing else None, over)


def _note_stragglers(world: World, draft: Draft) -> None:
    """A worker that is slow for good costs its GPU more than it gives; its owner should know which it is."""
    slow = world.stragglers
    names = ", ".join(f"{pod.name} on {pod.node or 'no node'}" for pod in slow)
    message = (
        f"slow for good: {names}; it trains a smaller share, so that the others wait less. "
        f"{_what_becomes_of_stragglers(world)}"
    )
    over = ("StragglerRecovered", "all workers are as fast as they were")
    _note_trouble(world, draft, STRAGGLER, message if slow else None, over)
    if slow and world.choice.until is not None:
        draft.look_again(world.choice.until)


def _what_becomes_of_stragglers(world: World) -> str:
    verdict = world.verdict
    if world.job.spec.scaling.stragglers == "Report":
        return "See what slows it there, or delete the pod to have another one"
    if world.choice.why:
        return f"It stays: {world.choice.why}"
    if world.replaceable is None or verdict is None:
        return "Another pod takes its place when the run has the size that is wanted"
    if not verdict.fits:
        return f"It stays: no other node has room for a pod in its place ({verdict.message})"
    return f"Another pod takes the place of {world.replaceable.name}"


def _note_trouble(
    world: World, draft: Draft, reason: str, message: str | None, over: tuple[str, str]
) -> None:
    """A condition that lasts as long as there is a message, unless another trouble holds it already.

    Args:
        over: Event and its text for when it has passed.
    """
    degraded = world.job.status.condition("Degraded")
    held = degraded is not None and degraded.status == "True"
    known = held and draft.was("Degraded", reason)
    if message is None and known:
        draft.condition("Degraded", False, "AsExpected")
        draft.tell(*over)
    elif message is not None and (known or not held):
        draft.condition("Degraded", True, reason, message)
        if not known:
            draft.tell(reason, message, warning=True)


def _measured(worker: WorkerStatus, sample: WorkerSample | None) -> WorkerStatus:
    if sample is None:
        return worker
    values: dict[str, Any] = {
        "share": sample.share,
        "weight": sample.weight,
        "performance": sample.performance,
    }
    return worker.model_copy(update={name: value for name, value in values.items() if value is not None})


def last_words(current: Sequence[PodView]) -> Report | None:
    """Rank 0's termination message, once it is there."""
    first = next((pod for pod in current if pod.rank == 0), None)
    return parse(first.exit.message) if first is not None and first.ended and first.exit is not None else None


def note_report(draft: Draft, current: Sequence[PodView]) -> Report | None:
    """Progress and checkpoint as rank 0 left them: fresher than any metric."""
    report = last_words(current)
    if report is None:
        return None
    if report.progress is not None:
        draft.set(progress=report.progress)
    if report.checkpoint_step is not None:
        end = next(pod.exit.finished for pod in current if pod.rank == 0 and pod.exit is not None)
        known: CheckpointStatus | None = draft.get("last_checkpoint")
        if known is None or known.step != report.checkpoint_step:
            draft.set(last_checkpoint=CheckpointStatus(step=report.checkpoint_step, time=end))
    return report
