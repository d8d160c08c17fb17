"""The eye of the controller: looks at the metrics of all running jobs at a steady pace.

Two queries a look, however many jobs there are. prometheus-api-client is synchronous and by default waits for
ever, so it runs in threads, with a time limit and a single retry. A look that fails is itself an observation:
jobs keep their last values and say that metrics are missing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, Protocol

from cra_operator.api import Job, JobKey
from cra_operator.controller.join import TRAINER_METRICS, TRAINER_PREFIX, UTILIZATION, Sample, observe
from cra_operator.controller.observation import Observation
from cra_operator.view import PodView

logger = logging.getLogger(__name__)

TRAINER_QUERY = f'{{__name__=~"{TRAINER_PREFIX}({"|".join(TRAINER_METRICS)})"}}'
GPU_QUERY = UTILIZATION

_TIMEOUT_SECONDS = 5


class MetricsError(Exception):
    """Prometheus did not answer; the message says why."""


class MetricsSource(Protocol):
    """Where samples come from."""

    async def query(self, query: str) -> list[Sample]:
        """The newest sample of every series that a PromQL selector matches.

        Raises:
            MetricsError: There is no answer.
        """


class Prometheus:
    """A Prometheus server as a source."""

    def __init__(self, url: str) -> None:
        # NB: these take half a second of CPU to import; an operator without Prometheus never needs them.
        from prometheus_api_client import PrometheusConnect
        from prometheus_api_client.exceptions import PrometheusApiClientException
        from requests import RequestException
        from urllib3.util.retry import Retry

        retry = Retry(total=1, backoff_factor=0.1, status_forcelist=(429, 502, 503, 504))
        self._failures = (PrometheusApiClientException, RequestException, ValueError, KeyError)
        self._connection = PrometheusConnect(url=url, retry=retry, timeout=_TIMEOUT_SECONDS)

    async def query(self, query: str) -> list[Sample]:
        """See `MetricsSource.query`."""
        try:
            found = await asyncio.to_thread(self._connection.custom_query, query)
            return [_sample(series) for series in found]
        except self._failures as error:
            raise MetricsError(f"{type(error).__name__}: {error}"[:300]) from error


def _sample(series: dict[str, Any]) -> Sample:
    return Sample(labels=series["metric"], value=float(series["value"][1]))


class Observer:
    """Looks at all running jobs and tells which of them look different.

    Args:
        source: Where samples come from; None if no Prometheus is configured.
        jobs: All jobs.
        pods_of: Gives a job's pods.
        on_change: Hears the key and the new observation of a job that looks different.
    """

    def __init__(
        self,
        source: MetricsSource | None,
        *,
        jobs: Iterable[Job],
        pods_of: Callable[[JobKey], Sequence[PodView]],
        on_change: Callable[[JobKey, Observation], None],
    ) -> None:
        self._source = source
        self._jobs = jobs
        self._pods_of = pods_of
        self._on_change = on_change
        self._last: dict[JobKey, Observation] = {}

    async def look(self) -> None:
        """One look at all running jobs."""
        running = {job.key: self._current(job) for job in self._jobs if job.status.phase == "Running"}
        seen = await self._observe(running) if running else {}
        self._last = {key: last for key, last in self._last.items() if key in seen}
        for key, observation in seen.items():
            if self._last.get(key) != observation:
                self._last[key] = observation
                self._on_change(key, observation)

    def _current(self, job: Job) -> list[PodView]:
        """The pods that train; those that are lost or on their way out speak for the job no more."""
        listed = {worker.pod for worker in job.status.workers}
        pods = self._pods_of(job.key)
        return [pod for pod in pods if pod.name in listed and not pod.ended and not pod.deleting]

    async def _observe(self, running: dict[JobKey, list[PodView]]) -> dict[JobKey, Observation]:
        now = datetime.now(UTC)
        if self._source is None:
            return {
                key: _blind(pods, now, "NotConfigured", "no Prometheus is configured")
                for key, pods in running.items()
            }
        try:
            trainers, gpus = await asyncio.gather(
                self._source.query(TRAINER_QUERY), self._source.query(GPU_QUERY)
            )
        except MetricsError as error:
            logger.warning("no metrics: %s", error)
            return {
                key: _blind(pods, now, "PrometheusUnavailable", "Prometheus does not answer")
                for key, pods in running.items()
            }
        return observe(running, trainers=trainers, gpus=gpus, now=now)


def _blind(pods: Sequence[PodView], now: datetime, reason: str, message: str) -> Observation:
    return Observation(
        time=now,
        run=max((pod.run for pod in pods), default=0),
        available=False,
        reason=reason,
        message=message,
    )
