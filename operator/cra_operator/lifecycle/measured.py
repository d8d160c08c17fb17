"""The measured part of the status: GPUs, workers, progress, GPU-seconds, what metrics and last words tell."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from cra_operator.api import CheckpointStatus, WorkerStatus
from cra_operator.controller.observation import Observation, WorkerSample
from cra_operator.lifecycle.draft import Draft
from cra_operator.lifecycle.report import Report, parse
from cra_operator.view import NodeView, PodView, holds_gpus

MAX_WORKERS = 4096


def gpu_seconds(pods: Iterable[PodView], now: datetime) -> float:
    """GPU-seconds of the job up to now, given the pods of its newest generation.

    A GPU is paid for from the moment the pod is bound until its container ends. What earlier generations
    burnt is written on the pods, so the sum needs no memory of when it was last taken.
    """
    total, before = 0.0, 0.0
    for pod in pods:
        before = max(before, pod.gpu_seconds_before)
        if pod.scheduled is not None:
            end = (pod.exit.finished if pod.ended and pod.exit else None) or now
            total += pod.gpus * max(0.0, (end - pod.scheduled).total_seconds())
    return round(before + total, 1)


def note_pods(
    draft: Draft, pods: Sequence[PodView], current: Sequence[PodView], nodes: Mapping[str, NodeView]
) -> None:
    """GPUs held by all pods; the workers and GPU-seconds of the current generation."""
    known = {worker.rank: worker for worker in draft.job.status.workers}
    draft.set(gpus=sum(pod.gpus for pod in pods if holds_gpus(pod)))
    if current:
        before: float = draft.job.status.gpu_seconds or 0.0
        draft.set(
            workers=[_worker(pod, nodes, known.get(pod.rank)) for pod in current[:MAX_WORKERS]],
            gpu_seconds=max(before, gpu_seconds(current, draft.now)),
        )


def _worker(pod: PodView, nodes: Mapping[str, NodeView], known: WorkerStatus | None) -> WorkerStatus:
    """The worker behind a pod; measurements are carried on while it is the same pod."""
    node = nodes.get(pod.node)
    kept = known.model_dump() if known is not None and known.pod == pod.name else {}
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


def note_observation(draft: Draft, seen: Observation | None) -> None:
    """What the metrics say. When they are missing the last values stay, and the condition says so."""
    if seen is None or seen.generation != draft.get("generation"):
        return
    draft.condition("MetricsAvailable", seen.available, seen.reason, seen.message)
    if not seen.available:
        return
    workers = [_measured(worker, seen.workers.get(worker.rank)) for worker in draft.get("workers")]
    draft.set(workers=workers)
    if seen.progress is not None:
        draft.set(progress=seen.progress)
    if seen.utilization is not None:
        draft.set(utilization=seen.utilization)
    if seen.checkpoint is not None:
        draft.set(last_checkpoint=seen.checkpoint)


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
