"""The eye of the controller: looks at the metrics of all running jobs at a steady pace.

A few queries a look, however many jobs there are. A look that fails is itself an observation: jobs keep their
last values and sizes, and say that metrics are missing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta

from cra_operator.api import Job, JobKey, JobStatus
from cra_operator.controller.join import Watch, observe
from cra_operator.controller.observation import Observation
from cra_operator.controller.prometheus import MetricsError, MetricsSource, QueryError, Sample
from cra_operator.controller.signals import Query, queries
from cra_operator.view import PodView

logger = logging.getLogger(__name__)

STALE_INTERVALS = 3
"""Samples that are older than so many looks say nothing of the present."""
_SHORTEST_STALE_SECONDS = 30.0
"""But where looks come faster than scrapes, scrapes set the pace."""


class Observer:
    """Looks at all running jobs and tells which of them look different.

    Args:
        source: Where samples come from; None if no Prometheus is configured.
        jobs: All jobs.
        pods_of: Gives a job's pods.
        on_change: Hears the key and the new observation of a job that looks different.
        interval: Seconds between two looks.
        warm_up: Seconds after a change of a run in which its speeds do not count.
        own_queries: PromQL in place of the default, by signal.
    """

    def __init__(
        self,
        source: MetricsSource | None,
        *,
        jobs: Iterable[Job],
        pods_of: Callable[[JobKey], Sequence[PodView]],
        on_change: Callable[[JobKey, Observation], None],
        interval: float,
        warm_up: float,
        own_queries: Mapping[str, str],
    ) -> None:
        self._source = source
        self._jobs = jobs
        self._pods_of = pods_of
        self._on_change = on_change
        self._stale_after = max(STALE_INTERVALS * interval, _SHORTEST_STALE_SECONDS)
        self._warm_up = timedelta(seconds=warm_up)
        self._queries = queries(own_queries)
        self._last: dict[JobKey, Observation] = {}

    async def look(self) -> None:
        """One look at all running jobs."""
        running = {job.key: self._watch(job) for job in self._jobs if job.status.phase == "Running"}
        seen = await self._observe(running) if running else {}
        self._last = {key: last for key, last in self._last.items() if key in seen}
        for key, observation in seen.items():
            if self._last.get(key) != observation:
                self._last[key] = observation
                self._on_change(key, observation)

    def _watch(self, job: Job) -> Watch:
        """The pods that train; those that are lost or on their way out speak for the job no more."""
        listed = {worker.pod for worker in job.status.workers}
        pods = self._pods_of(job.key)
        since = steady_since(job.status)
        return Watch(
            pods=[pod for pod in pods if pod.name in listed and not pod.ended and not pod.deleting],
            steady=since + self._warm_up if since is not None else None,
        )

    async def _observe(self, running: dict[JobKey, Watch]) -> dict[JobKey, Observation]:
        now = datetime.now(UTC)
        source, ask = self._source, self._queries
        if source is None:
            return _blind(running, now, "NotConfigured", "no Prometheus is configured")
        try:
            *trainers, gpus, scrapes = await asyncio.gather(
                *(_ask(source, query) for query in (*ask.trainers, ask.gpus, ask.scrapes))
            )
        except QueryError as error:
            logger.warning("no metrics: %s", error)
            advice = f"Prometheus refuses a query; correct prometheus.queries of the chart: {error}"
            return _blind(running, now, "QueryRefused", advice)
        except MetricsError as error:
            logger.warning("no metrics: %s", error)
            return _blind(running, now, "PrometheusUnavailable", "Prometheus does not answer")
        return observe(
            running,
            trainers=[sample for answer in trainers for sample in answer],
            gpus=gpus,
            scrapes=scrapes,
            now=now,
            stale_after=self._stale_after,
        )


def steady_since(status: JobStatus) -> datetime | None:
    """When the run last changed; None while it changes or does not train."""
    if status.phase != "Running" or status.is_true("Rescaling"):
        return None
    changes = [status.condition("Running"), status.condition("Rescaling")]
    times = [status.running_time, *(change.last_transition_time for change in changes if change is not None)]
    return max((time for time in times if time is not None), default=None)


async def _ask(source: MetricsSource, query: Query) -> list[Sample]:
    """The samples of a query, under the name that they stand for."""
    samples = await source.query(query.promql)
    if query.metric is None:
        return samples
    return [
        Sample(labels={**sample.labels, "__name__": query.metric}, value=sample.value, time=sample.time)
        for sample in samples
    ]


def _blind(
    running: Mapping[JobKey, Watch], now: datetime, reason: str, message: str
) -> dict[JobKey, Observation]:
    return {
        key: Observation(time=now, run=watch.run, available=False, reason=reason, message=message)
        for key, watch in running.items()
    }
