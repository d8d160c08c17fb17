"""The operator's own metrics.

What is true of jobs right now (phases, GPUs) is read from the store when Prometheus asks, so nothing has to
be cleaned up when a job goes; what happens is counted when it happens.
"""

from __future__ import annotations

import math
import time
from collections import Counter as Tally
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from cra_operator.api import Job, JobStatus, Phase
from cra_operator.controller.policies import NOTHING
from cra_operator.controller.policies.online import Online

_FAST = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Metrics:
    """All metrics, in a registry of their own."""

    def __init__(
        self,
        jobs: Iterable[Job],
        queue_depth: Callable[[], int],
        learned: Mapping[str, Online] = NOTHING,
    ) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._reconciles = Histogram(
            "cra_operator_reconcile_seconds",
            "Time that one pass over one job took, its requests included.",
            ["result"],
            buckets=_FAST,
            registry=self.registry,
        )
        self._requests = Counter(
            "cra_operator_api_requests_total",
            "Requests to the API server by verb and HTTP status; 0 if no answer came.",
            ["verb", "code"],
            registry=self.registry,
        )
        self._first_pod = Histogram(
            "cra_operator_first_pod_seconds",
            "Time from first hearing of a job to its first pod being created, waiting for GPUs included.",
            buckets=(*_FAST, 30.0, 60.0, 300.0, 1800.0),
            registry=self.registry,
        )
        self._restarts = Counter(
            "cra_operator_restarts_total",
            "Runs given up, by cause.",
            ["reason"],
            registry=self.registry,
        )
        self._rescales = Counter(
            "cra_operator_rescales_total",
            "Changes of size carried out, by the reason of the decision.",
            ["reason"],
            registry=self.registry,
        )
        self._pauses = Histogram(
            "cra_operator_pause_seconds",
            "Pauses of training when workers joined or left, as trainers report them.",
            buckets=(*_FAST, 30.0, 60.0, 300.0),
            registry=self.registry,
        )
        self._gpu_seconds = Counter(
            "cra_operator_gpu_seconds_total",
            "GPU-seconds that jobs have held, as their statuses tell.",
            registry=self.registry,
        )
        self._decisions = Histogram(
            "cra_operator_decision_seconds",
            "Time that one decision about the sizes of all jobs took.",
            buckets=_FAST,
            registry=self.registry,
        )
        depth = Gauge("cra_operator_queue_depth", "Jobs that are due.", registry=self.registry)
        depth.set_function(queue_depth)
        self.registry.register(_JobCollector(jobs))
        self.registry.register(_LearningCollector(learned))

    def request(self, verb: str, status: int) -> None:
        """An answer of the API server."""
        self._requests.labels(verb, str(status)).inc()

    def first_pod(self, seconds: float) -> None:
        """A job got its first pod."""
        self._first_pod.observe(seconds)

    def decided(self, seconds: float) -> None:
        """The sizes of all jobs were decided."""
        self._decisions.observe(seconds)

    @contextmanager
    def reconciling(self) -> Iterator[None]:
        """Measure one pass."""
        start, result = time.monotonic(), "error"
        try:
            yield
            result = "success"
        finally:
            self._reconciles.labels(result).observe(time.monotonic() - start)

    def note_transition(self, job: Job, new: JobStatus) -> None:
        """A status was written: count what it tells has happened."""
        old = job.status
        if (new.restarts or 0) > (old.restarts or 0):
            degraded = new.condition("Degraded")
            self._restarts.labels(degraded.reason if degraded is not None else "Unknown").inc()
        decision = new.last_decision
        rescales = max(0, (new.rescales or 0) - (old.rescales or 0))
        self._rescales.labels(decision.reason if decision is not None else "Unknown").inc(rescales)
        if new.pause_seconds is not None and new.pause_seconds != old.pause_seconds:
            self._pauses.observe(new.pause_seconds)
        self._gpu_seconds.inc(max(0.0, (new.gpu_seconds or 0.0) - (old.gpu_seconds or 0.0)))

    def render(self) -> bytes:
        """The text exposition."""
        return generate_latest(self.registry)


class _JobCollector(Collector):
    """Reads the jobs at scrape time."""

    def __init__(self, jobs: Iterable[Job]) -> None:
        self._jobs = jobs

    def collect(self) -> Iterator[Metric]:
        """Jobs by phase, and what each holds."""
        phases = GaugeMetricFamily("cra_operator_jobs", "Jobs by phase.", labels=["phase"])
        gpus = GaugeMetricFamily(
            "cra_operator_job_gpus", "GPUs that the job holds.", labels=["namespace", "job"]
        )
        seconds = GaugeMetricFamily(
            "cra_operator_job_gpu_seconds", "GPU-seconds of the job so far.", labels=["namespace", "job"]
        )
        reward = GaugeMetricFamily(
            "cra_operator_job_reward",
            "Reward of the job's present size under its objective.",
            labels=["namespace", "job"],
        )
        jobs = list(self._jobs)
        tally = Tally(job.status.phase or "Pending" for job in jobs)
        for phase in get_args(Phase):
            phases.add_metric([phase], tally[phase])
        for job in jobs:
            gpus.add_metric(list(job.key), job.status.gpus or 0)
            seconds.add_metric(list(job.key), job.status.gpu_seconds or 0.0)
            if job.status.reward is not None and job.status.phase == "Running":
                reward.add_metric(list(job.key), job.status.reward)
        yield from (phases, gpus, seconds, reward)


class _LearningCollector(Collector):
    """Reads what was learned online at scrape time."""

    def __init__(self, learned: Mapping[str, Online]) -> None:
        self._learned = learned

    def collect(self) -> Iterator[Metric]:
        """How much was learned, how far that led, and what it is worth."""
        updates = CounterMetricFamily(
            "cra_operator_learning_updates", "Choices that the policy learned from.", labels=["policy"]
        )
        returns = CounterMetricFamily(
            "cra_operator_learning_returns",
            "Times that what it had learned did worse than what was shipped and was dropped.",
            labels=["policy"],
        )
        distance = GaugeMetricFamily(
            "cra_operator_learning_distance_ratio",
            "Largest change of a weight since it was shipped, as a part of its bound.",
            labels=["policy"],
        )
        reward = GaugeMetricFamily(
            "cra_operator_learning_reward_ratio",
            "Reward of choices that it would not have made as shipped, over what is usual.",
            labels=["policy"],
        )
        for policy, online in self._learned.items():
            updates.add_metric([policy], online.updates)
            returns.add_metric([policy], online.returns)
            distance.add_metric([policy], online.distance)
            reward.add_metric([policy], math.exp(online.standing))
        yield from (updates, returns, distance, reward)
