"""What is asked of Prometheus: one query per signal for all jobs, and the few of them that can go together.

Each signal has a name, under which the chart takes PromQL of one's own, and a metric of the trainers that it
is read from otherwise. Trainers' metrics that nobody has redefined come by one query, since a regular
expression over names costs Prometheus less than a dozen queries. When a pod was scraped cannot be seen from a
sample (an instant query stamps its answer with the time of asking), so that is asked by itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

TRAINER_PREFIX = "cra_trainer_"
TRAINER_METRICS = (
    "progress_ratio", "epoch", "epochs", "step", "loss", "eta_seconds", "samples_per_second",
    "trained_samples", "share_ratio", "weight_ratio", "performance", "checkpoint_step",
    "checkpoint_timestamp_seconds", "checkpoint_failing", "pause_seconds", "step_seconds",
    "compute_seconds", "communication_seconds", "batch_size", "noise_scale", "world_size", "straggler",
    "scale_invariant_steps", "capability_samples_per_second", "settled",
)  # fmt: skip
"""What is read of the trainers' metrics, without their prefix."""

UTILIZATION = "utilization"
GPU_METRICS: Mapping[str, float] = {
    "DCGM_FI_PROF_SM_ACTIVE": 1.0,
    "DCGM_FI_PROF_GR_ENGINE_ACTIVE": 1.0,
    "DCGM_FI_DEV_GPU_UTIL": 100.0,
}
"""Utilization by the DCGM exporter's names, the most telling first, with the value of a GPU at full work.

GPU_UTIL is the part of the time in which any kernel ran, so it stays high where most of the GPU idles; but it
is the only one that every exporter gives by default.
"""

SIGNALS: Mapping[str, str] = {
    UTILIZATION: UTILIZATION,
    "progress": "progress_ratio",
    "step": "step",
    "samplesPerSecond": "samples_per_second",
    "stepSeconds": "step_seconds",
    "computeSeconds": "compute_seconds",
    "communicationSeconds": "communication_seconds",
    "batchSize": "batch_size",
    "noiseScale": "noise_scale",
    "pauseSeconds": "pause_seconds",
}
"""Signals that may have a query of their own, with the trainers' metric that they are otherwise."""

SCRAPE_TIMES = f"timestamp({TRAINER_PREFIX}world_size)"


@dataclass(frozen=True, kw_only=True)
class Query:
    """A query and the metric that all its series stand for; None if they carry names of their own."""

    promql: str
    metric: str | None = None


@dataclass(frozen=True, kw_only=True)
class Queries:
    """All that is asked at one look.

    Attributes:
        trainers: Queries for the trainers' metrics.
        gpus: Query for utilization.
        scrapes: Query for the time at which each pod was scraped.
    """

    trainers: tuple[Query, ...]
    gpus: Query
    scrapes: Query


def queries(own: Mapping[str, str]) -> Queries:
    """The queries of a look.

    Args:
        own: PromQL in place of the default, by name of `SIGNALS`.
    """
    redefined = {SIGNALS[signal]: promql for signal, promql in own.items()}
    rest = "|".join(metric for metric in TRAINER_METRICS if metric not in redefined)
    busy = redefined.pop(UTILIZATION, None)
    names = "|".join(GPU_METRICS)
    return Queries(
        trainers=(
            Query(promql=f'{{__name__=~"{TRAINER_PREFIX}({rest})"}}'),
            *(Query(promql=promql, metric=metric) for metric, promql in redefined.items()),
        ),
        gpus=Query(promql=f'{{__name__=~"{names}"}}')
        if busy is None
        else Query(promql=busy, metric=UTILIZATION),
        scrapes=Query(promql=SCRAPE_TIMES),
    )
