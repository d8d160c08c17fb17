"""From Prometheus samples to observations: which series belongs to which job, and what they say together."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from statistics import fmean

from cra_operator.api import CheckpointStatus, JobKey, Progress
from cra_operator.controller.observation import Observation, WorkerSample
from cra_operator.view import PodView

TRAINER_PREFIX = "cra_trainer_"
TRAINER_METRICS = (
    "progress_ratio", "epoch", "epochs", "step", "loss", "eta_seconds", "samples_per_second",
    "trained_samples", "share_ratio", "weight_ratio", "performance", "checkpoint_step",
    "checkpoint_timestamp_seconds", "checkpoint_failing", "pause_seconds",
)  # fmt: skip
"""What is read of the trainers' metrics, without their prefix."""
UTILIZATION = "DCGM_FI_DEV_GPU_UTIL"

_POD_LABELS = (("exported_namespace", "exported_pod"), ("namespace", "pod"))
"""Where the exporter's own labels lose against the scraper's, the workload's pod is the `exported_` one."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """The newest value of one series."""

    labels: Mapping[str, str]
    value: float

    @property
    def name(self) -> str:
        """The metric's name."""
        return self.labels.get("__name__", "")


def observe(
    jobs: Mapping[JobKey, Sequence[PodView]],
    *,
    trainers: Iterable[Sample],
    gpus: Iterable[Sample],
    now: datetime,
) -> dict[JobKey, Observation]:
    """Join samples to jobs by (namespace, pod).

    Args:
        jobs: The pods that train of every job that is looked at.
        trainers: Samples of `TRAINER_METRICS`.
        gpus: Samples of `UTILIZATION`, in percent.
        now: The time of the look.

    Returns:
        One observation per job; without any sample of its trainers it is not available.
    """
    owner = {pod.key: pod for pods in jobs.values() for pod in pods}
    values: dict[tuple[str, str], dict[str, list[float]]] = {}
    for sample in sorted(trainers, key=lambda sample: sample.labels.get("rank") == "0"):
        pod = _pod_of(sample, owner)
        if pod is not None and math.isfinite(sample.value):
            name = sample.name.removeprefix(TRAINER_PREFIX)
            values.setdefault(pod.key, {}).setdefault(name, []).append(sample.value)
    busy: dict[JobKey, list[float]] = {}
    for sample in gpus:
        pod = _pod_of(sample, owner)
        if pod is not None and math.isfinite(sample.value):
            busy.setdefault((pod.namespace, pod.job), []).append(sample.value / 100)
    return {key: _observation(pods, values, busy.get(key, ()), now) for key, pods in jobs.items()}


def _pod_of(sample: Sample, pods: Mapping[tuple[str, str], PodView]) -> PodView | None:
    for namespace, pod in _POD_LABELS:
        found = pods.get((sample.labels.get(namespace, ""), sample.labels.get(pod, "")))
        if found is not None:
            return found
    return None


def _observation(
    pods: Sequence[PodView],
    values: Mapping[tuple[str, str], Mapping[str, list[float]]],
    busy: Sequence[float],
    now: datetime,
) -> Observation:
    run = max((pod.run for pod in pods), default=0)
    seen = {pod.name: values[pod.key] for pod in pods if pod.key in values}
    if not seen:
        return Observation(
            time=now,
            run=run,
            available=False,
            reason="NoSamples",
            message="Prometheus has no samples of the job's pods: is it scraping them?",
        )
    first = next((seen[pod.name] for pod in pods if pod.rank == 0 and pod.name in seen), {})
    return Observation(
        time=now,
        run=run,
        progress=_progress(first) if first else None,
        workers={name: _worker(metrics) for name, metrics in seen.items()},
        utilization=round(min(1.0, fmean(busy)), 4) if busy else None,
        checkpoint=_checkpoint(first),
        checkpoint_failing=bool(_last(first, "checkpoint_failing")),
        pause_seconds=_last(first, "pause_seconds") or None,
    )


def _progress(first: Mapping[str, list[float]]) -> Progress:
    """What rank 0 says of the whole group."""
    return Progress(
        epoch=_whole(first, "epoch"),
        epochs=_whole(first, "epochs"),
        step=_whole(first, "step"),
        ratio=_last(first, "progress_ratio"),
        samples_per_second=_last(first, "samples_per_second"),
        loss=_last(first, "loss"),
        eta_seconds=_last(first, "eta_seconds"),
        samples=_whole(first, "trained_samples"),
    )


def _checkpoint(first: Mapping[str, list[float]]) -> CheckpointStatus | None:
    """The newest checkpoint; both gauges are 0 until there is one."""
    step, stamp = _whole(first, "checkpoint_step"), _last(first, "checkpoint_timestamp_seconds")
    return CheckpointStatus(step=step, time=datetime.fromtimestamp(stamp, UTC)) if step and stamp else None


def _worker(metrics: Mapping[str, list[float]]) -> WorkerSample:
    """One pod's part; a pod with several local ranks is the sum of them."""
    return WorkerSample(
        share=_sum(metrics, "share_ratio"),
        weight=_sum(metrics, "weight_ratio"),
        performance=_sum(metrics, "performance"),
    )


def _sum(metrics: Mapping[str, list[float]], name: str) -> float | None:
    return sum(metrics[name]) if name in metrics else None


def _last(metrics: Mapping[str, list[float]], name: str) -> float | None:
    """The value of a gauge; of several ranks in one pod rank 0's, which comes last."""
    return metrics[name][-1] if name in metrics else None


def _whole(metrics: Mapping[str, list[float]], name: str) -> int | None:
    value = _last(metrics, name)
    return None if value is None else int(value)
