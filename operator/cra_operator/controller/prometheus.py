"""Asking Prometheus, by prometheus-api-client.

That client is synchronous and by default waits for ever, so it runs in threads, with a time limit and a
single retry. The bearer token is read anew for each query, since those that Kubernetes mounts change with
time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

_TIMEOUT_SECONDS = 5
_LONGEST = 300


class MetricsError(Exception):
    """Prometheus did not answer; the message says why."""


class QueryError(MetricsError):
    """Prometheus did not understand a query; the message says which and why."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """The newest value of one series.

    Attributes:
        labels: Its labels.
        value: The value.
        time: When the query was answered, by Prometheus' clock, in seconds since the epoch.
    """

    labels: Mapping[str, str]
    value: float
    time: float = 0.0

    @property
    def name(self) -> str:
        """The metric's name."""
        return self.labels.get("__name__", "")


class MetricsSource(Protocol):
    """Where samples come from."""

    async def query(self, query: str) -> list[Sample]:
        """The newest sample of every series that a PromQL expression yields.

        Raises:
            MetricsError: There is no answer.
        """


class Prometheus:
    """A Prometheus server as a source.

    Args:
        url: Its address.
        token_file: A file with a bearer token to send along.
        ca_file: A file with the authorities that may have signed its certificate; None for the usual ones.
    """

    def __init__(self, url: str, *, token_file: Path | None = None, ca_file: Path | None = None) -> None:
        # NB: these take half a second of CPU to import; an operator without Prometheus never needs them.
        from prometheus_api_client import PrometheusConnect
        from prometheus_api_client.exceptions import PrometheusApiClientException
        from requests import RequestException, Session
        from urllib3.util.retry import Retry

        retry = Retry(total=1, backoff_factor=0.1, status_forcelist=(429, 502, 503, 504))
        self._refusals = (PrometheusApiClientException,)
        self._failures = (RequestException, OSError, ValueError, KeyError)
        self._token_file = token_file
        session = Session()
        if ca_file is not None:
            session.verify = str(ca_file)
        self._connection = PrometheusConnect(url=url, retry=retry, timeout=_TIMEOUT_SECONDS, session=session)

    async def query(self, query: str) -> list[Sample]:
        """See `MetricsSource.query`."""
        return await asyncio.to_thread(self._query, query)

    def _query(self, query: str) -> list[Sample]:
        try:
            if self._token_file is not None:
                token = self._token_file.read_text().strip()
                self._connection.headers = {"Authorization": f"Bearer {token}"}
            return [_sample(series) for series in self._connection.custom_query(query)]
        except self._refusals as error:
            # NB: any status but 200 is this exception; 400 is the one that tells of the query.
            kind = QueryError if "Code 400" in str(error) else MetricsError
            raise kind(f"{query}: {error}"[:_LONGEST]) from error
        except self._failures as error:
            raise MetricsError(f"{type(error).__name__}: {error}"[:_LONGEST]) from error


def _sample(series: dict[str, Any]) -> Sample:
    time, value = series["value"]
    return Sample(labels=series["metric"], value=float(value), time=float(time))
