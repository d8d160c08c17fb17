"""From Prometheus samples to observations: which series belongs to which job, and what they say together."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from statistics import fmean

from cra_operator.api import CheckpointStatus, JobKey, Progress
from cra_operator.controller.observation import Observation, Pace, WorkerSample
from cra_operator.controller.prometheus import Sample
from cra_operator.controller.signals import GPU_METRICS, TRAINER_PREFIX, UTILIZATION
from cra_operator.view import PodView

_POD_LABELS = (("exported_namespace", "exported_pod"), ("namespace", "pod"))
"""Where the exporter's own labels lose against the scraper's, the workload's pod is the `exported_` one."""
_FULL: Mapping[str, float] = {UTILIZATION: 1.0, **GPU_METRICS}
"""Names of utilization, the most telling first, with the value of a GPU at full work."""

_Values = Mapping[str, list[float]]
"""Values by metric, one for each rank of a pod; rank 0's comes last."""


@dataclass(frozen=True, kw_only=True)
class Watch:
    """A job that is looked at.

    Attributes:
        pods: Those that train.
        steady: From when on its speeds count, being those of its present size; None while it changes.
    """

    pods: Sequence[PodView]
    steady: datetime | None = None

    @property
    def run(self) -> int:
        """The run that the pods belong to."""
        return max((pod.run for pod in self.pods), default=0)


def observe(
    jobs: Mapping[JobKey, Watch],
    *,
    trainers: Iterable[Sample],
    gpus: Iterable[Sample],
    scrapes: Iterable[Sample],
    now: datetime,
    stale_after: float,
) -> dict[JobKey, Observation]:
    """Join samples to jobs by (namespace, pod).

    Args:
        jobs: Every job that is looked at.
        trainers: Samples of `TRAINER_METRICS`.
        gpus: Samples of `GPU_METRICS`, or of utilization as a part of 1.
        scrapes: When each pod was scraped, in seconds since the epoch by Prometheus' clock. A pod without
            such a sample is taken to have been scraped now.
        now: The time of the look.
        stale_after: Seconds after which a pod's samples do not count.

    Returns:
        One observation per job; without any fresh sample of its trainers it is not available.
    """
    owner = {pod.key: pod for watch in jobs.values() for pod in watch.pods}
    values: dict[tuple[str, str], dict[str, list[float]]] = {}
    for sample in sorted(trainers, key=lambda sample: sample.labels.get("rank") == "0"):
        pod = _pod_of(sample, owner)
        if pod is not None and math.isfinite(sample.value):
            name = sample.name.removeprefix(TRAINER_PREFIX)
            values.setdefault(pod.key, {}).setdefault(name, []).append(sample.value)
    busy = _utilization(gpus, owner)
    ages: dict[tuple[str, str], float] = {}
    for sample in scrapes:
        pod = _pod_of(sample, owner)
        if pod is not None:
            ages[pod.key] = min(sample.time - sample.value, ages.get(pod.key, math.inf))
    return {
        key: _observation(watch, values, busy.get(key, ()), ages, now, stale_after)
        for key, watch in jobs.items()
    }


def _pod_of(sample: Sample, pods: Mapping[tuple[str, str], PodView]) -> PodView | None:
    for namespace, pod in _POD_LABELS:
        found = pods.get((sample.labels.get(namespace, ""), sample.labels.get(pod, "")))
        if found is not None:
            return found
    return None


def _utilization(
    gpus: Iterable[Sample], owner: Mapping[tuple[str, str], PodView]
) -> dict[JobKey, list[float]]:
    """Utilization of each GPU of each job, 0..1, by the most telling metric that there is of it."""
    seen: dict[tuple[str, ...], tuple[PodView, dict[str, float]]] = {}
    for sample in gpus:
        pod = _pod_of(sample, owner)
        if pod is not None and sample.name in _FULL and math.isfinite(sample.value):
            # NB: not by host, a label that the exporter has renamed; instances of one GPU have their own id.
            gpu = tuple(sample.labels.get(name, "") for name in ("UUID", "gpu", "GPU_I_ID"))
            _, metrics = seen.setdefault((*pod.key, *gpu), (pod, {}))
            metrics[sample.name] = min(1.0, max(0.0, sample.value / _FULL[sample.name]))
    busy: dict[JobKey, list[float]] = {}
    for pod, metrics in seen.values():
        best = next(metrics[name] for name in _FULL if name in metrics)
        busy.setdefault((pod.namespace, pod.job), []).append(best)
    return busy


def _observation(
    watch: Watch,
    values: Mapping[tuple[str, str], _Values],
    busy: Sequence[float],
    ages: Mapping[tuple[str, str], float],
    now: datetime,
    stale_after: float,
) -> Observation:
    there = [pod for pod in watch.pods if pod.key in values]
    fresh = [pod for pod in there if ages.get(pod.key, 0.0) <= stale_after]
    if not fresh:
        old = f"the newest samples are older than {stale_after:g} s: does Prometheus still scrape the pods?"
        none = "Prometheus has no samples of the job's pods: is it scraping them?"
        return Observation(
            time=now,
            run=watch.run,
            available=False,
            reason="Stale" if there else "NoSamples",
            message=old if there else none,
        )
    seen = {pod.name: values[pod.key] for pod in fresh}
    leader = next((pod for pod in fresh if pod.rank == 0), None)
    first = seen[leader.name] if leader is not None else {}
    scraped = now - timedelta(seconds=max(ages.get(pod.key, 0.0) for pod in fresh))
    steady = watch.steady is not None and scraped >= watch.steady and _is_whole(watch, first, seen)
    return Observation(
        time=now,
        run=watch.run,
        progress=_progress(first) if first else None,
        workers={name: _worker(metrics) for name, metrics in seen.items()},
        utilization=round(fmean(busy), 4) if busy else None,
        checkpoint=_checkpoint(first),
        checkpoint_failing=bool(_last(first, "checkpoint_failing")),
        pause_seconds=_last(first, "pause_seconds") or None,
        batch_size=_whole(first, "batch_size") or None,
        noise_scale=_last(first, "noise_scale"),
        pace=_pace(watch, first, seen.values()) if steady else None,
    )


def _is_whole(watch: Watch, first: _Values, seen: Mapping[str, _Values]) -> bool:
    """Whether all ranks of the group that rank 0 speaks of were seen, and all its pods are there.

    A script with metrics of its own says no size; that rank 0 is seen must do.
    """
    ranks = _whole(first, "world_size")
    told = sum(len(metrics.get("world_size", ())) for metrics in seen.values())
    return bool(first) if ranks is None else len(seen) == len(watch.pods) and ranks == told


def _pace(watch: Watch, first: _Values, ranks: Iterable[_Values]) -> Pace | None:
    """How fast the group trains; None while its shares have yet to follow from its ranks' speeds.

    A step is a mean over the last seconds where samples per second are there, else the last one. The rank
    that computes longest waits shortest: what it waits is what the reduction costs.
    """
    batch, rate = _last(first, "batch_size"), _last(first, "samples_per_second")
    step = batch / rate if batch and rate else _last(first, "step_seconds")
    if not step or step <= 0 or _last(first, "settled") == 0:
        return None
    ranks = list(ranks)
    computing = [value for metrics in ranks for value in metrics.get("compute_seconds", ())]
    waiting = [value for metrics in ranks for value in metrics.get("communication_seconds", ())]
    compute = None
    if computing and waiting and max(computing) > 0:
        compute = step * max(computing) / (max(computing) + max(0.0, min(waiting)))
    pods = frozenset(pod.name for pod in watch.pods)
    return Pace(pods=pods, step_seconds=step, compute_seconds=compute)


def _progress(first: _Values) -> Progress:
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
        scale_invariant_steps=_last(first, "scale_invariant_steps"),
    )


def _checkpoint(first: _Values) -> CheckpointStatus | None:
    """The newest checkpoint; both gauges are 0 until there is one."""
    step, stamp = _whole(first, "checkpoint_step"), _last(first, "checkpoint_timestamp_seconds")
    return CheckpointStatus(step=step, time=datetime.fromtimestamp(stamp, UTC)) if step and stamp else None


def _worker(metrics: _Values) -> WorkerSample:
    """One pod's part; a pod with several local ranks is the sum of them."""
    return WorkerSample(
        share=_sum(metrics, "share_ratio"),
        weight=_sum(metrics, "weight_ratio"),
        performance=_sum(metrics, "performance"),
        capability=_sum(metrics, "capability_samples_per_second"),
        straggler=any(metrics.get("straggler", ())),
    )


def _sum(metrics: _Values, name: str) -> float | None:
    return sum(metrics[name]) if name in metrics else None


def _last(metrics: _Values, name: str) -> float | None:
    """The value of a gauge; of several ranks in one pod rank 0's, which comes last."""
    return metrics[name][-1] if name in metrics else None


def _whole(metrics: _Values, name: str) -> int | None:
    value = _last(metrics, name)
    return None if value is None else int(value)
