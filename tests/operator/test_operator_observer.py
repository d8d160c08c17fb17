"""The observer looks at Prometheus again and again: what it asks, what it tells, and what it does without an
answer.
"""

import asyncio
import json
import ssl
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlparse

import pytest

from cra_operator.api import Job, JobKey, JobStatus
from cra_operator.controller.observation import Observation
from cra_operator.controller.observe import Observer, steady_since
from cra_operator.controller.prometheus import MetricsError, Prometheus, QueryError, Sample
from cra_operator.controller.signals import queries
from cra_operator.view import PodView
from e2e.local.pki import Authority, Identity
from tests.operator.operator_world import START, make_job, make_pod
from tests.operator.samples import KEY, PACE, PODS, QUERIES, TRAINERS, trainer


class Source:
    """A metrics source that answers what it is told to, and counts."""

    def __init__(self, *samples: Sample) -> None:
        self.samples = list(samples)
        self.queries: list[str] = []
        self.down = False

    async def query(self, query: str) -> list[Sample]:
        self.queries.append(query)
        if self.down:
            raise MetricsError("connection refused")
        return self.samples if query == TRAINERS.promql else []


def running_job(name: str = "digits", phase: str = "Running") -> Job:
    workers = [{"rank": rank, "pod": f"{name}-1-{rank}"} for rank in (0, 1)]
    status = JobStatus.model_validate({"phase": phase, "generation": 1, "workers": workers})
    return make_job(name).model_copy(update={"status": status})


def an_observer(
    source: Source | None,
    *jobs: Job,
    pods: Sequence[PodView] = PODS,
    own_queries: dict[str, str] | None = None,
    warm_up: float = 0,
) -> tuple[Observer, list[Observation]]:
    told: list[Observation] = []

    def pods_of(key: JobKey) -> Sequence[PodView]:
        return pods if key == KEY else []

    observer = Observer(
        source,
        jobs=jobs,
        pods_of=pods_of,
        on_change=lambda key, seen: told.append(seen),
        interval=15,
        warm_up=warm_up,
        own_queries=own_queries or {},
    )
    return observer, told


async def test_three_queries_a_look_however_many_jobs() -> None:
    source = Source(trainer("step", 1))
    observer, _ = an_observer(source, *(running_job(f"j{number}") for number in range(50)))
    await observer.look()
    expected = [TRAINERS.promql, QUERIES.gpus.promql, QUERIES.scrapes.promql]
    assert sorted(source.queries) == sorted(expected)


async def test_a_signal_may_have_a_query_of_its_own() -> None:
    class Own(Source):
        async def query(self, query: str) -> list[Sample]:
            pod = {"namespace": "default", "pod": "digits-1-0"}
            return [Sample(labels=pod, value=0.5)] if query.startswith("my_") else []

    own = {"progress": "my_progress / 100", "utilization": "my_gpu"}
    observer, told = an_observer(Own(), running_job(), own_queries=own)
    await observer.look()
    (seen,) = told
    assert seen.progress is not None
    assert (seen.progress.ratio, seen.utilization) == (0.5, 0.5)
    assert "progress_ratio" not in queries(own).trainers[0].promql
    assert "samples_per_second" in queries(own).trainers[0].promql


@pytest.mark.parametrize(
    ("change", "steady"),
    [
        ({}, 0),
        ({"conditions": [("Running", "True", 20)]}, 20),
        ({"conditions": [("Running", "True", 5), ("Rescaling", "False", 40)]}, 40),
        ({"conditions": [("Running", "True", 5), ("Rescaling", "True", 40)]}, None),
        ({"phase": "Starting"}, None),
    ],
)
def test_a_run_is_steady_from_its_last_change_on(change: dict[str, Any], steady: int | None) -> None:
    def at(seconds: int) -> str:
        return (START + timedelta(seconds=seconds)).isoformat()

    conditions = [
        {"type": kind, "status": status, "reason": "X", "lastTransitionTime": at(seconds)}
        for kind, status, seconds in change.get("conditions", [])
    ]
    told = {"phase": "Running", "runningTime": at(0), **change, "conditions": conditions}
    found = steady_since(JobStatus.model_validate(told))
    assert found == (None if steady is None else START + timedelta(seconds=steady))


@pytest.mark.parametrize(("warm_up", "counts"), [(3600.0, False), (0.0, True)])
async def test_speeds_count_after_the_warm_up(warm_up: float, counts: bool) -> None:
    job = running_job()
    status = job.status.model_copy(update={"running_time": datetime.now(START.tzinfo) - timedelta(minutes=5)})
    observer, told = an_observer(Source(*PACE), job.model_copy(update={"status": status}), warm_up=warm_up)
    await observer.look()
    assert [seen.pace is not None for seen in told] == [counts]


async def test_a_query_that_is_refused_is_told_with_the_place_to_correct_it() -> None:
    class Strict(Source):
        async def query(self, query: str) -> list[Sample]:
            raise QueryError("HTTP Status Code 400 to my_step(")

    observer, told = an_observer(Strict(), running_job())
    await observer.look()
    (seen,) = told
    assert (seen.available, seen.reason) == (False, "QueryRefused")
    assert "prometheus.queries" in seen.message
    assert "my_step(" in seen.message


async def test_only_what_looks_different_is_told() -> None:
    source = Source(trainer("step", 1))
    observer, told = an_observer(source, running_job())
    await observer.look()
    await observer.look()
    assert len(told) == 1
    source.samples = [trainer("step", 2)]
    await observer.look()
    assert [seen.progress.step for seen in told if seen.progress] == [1, 2]


async def test_pods_that_train_no_more_do_not_count() -> None:
    source = Source(*(trainer("share_ratio", 0.25, rank=rank) for rank in range(4)))
    pods = [
        make_pod(0),
        replace(make_pod(1), deleted=START, deadline=START),
        make_pod(2),  # not on the list of workers: it is about to join, or to be sent away
    ]
    observer, told = an_observer(source, running_job(), pods=pods)
    await observer.look()
    assert [list(seen.workers) for seen in told] == [["digits-1-0"]]


async def test_nobody_is_asked_when_nothing_runs() -> None:
    source = Source()
    observer, told = an_observer(source, running_job(phase="Pending"))
    await observer.look()
    assert (source.queries, told) == ([], [])


async def test_a_prometheus_that_is_down_is_told_as_such() -> None:
    source = Source()
    source.down = True
    observer, told = an_observer(source, running_job())
    await observer.look()
    assert [(seen.available, seen.reason, seen.run) for seen in told] == [(False, "PrometheusUnavailable", 1)]


async def test_without_a_prometheus_it_says_so() -> None:
    observer, told = an_observer(None, running_job())
    await observer.look()
    assert [(seen.available, seen.reason) for seen in told] == [(False, "NotConfigured")]


# --- a real HTTP server -------------------------------------------------------------------------------------


class _FakePrometheus(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path.startswith("/guarded") and self.headers["Authorization"] != "Bearer rotated":
            self.send_error(401)
            return
        query = parse_qs(urlparse(self.path).query)["query"][0]
        if query == "bad(":
            self.send_error(400, "parse error")
            return
        series = {"metric": {"__name__": "cra_trainer_step", "pod": "digits-1-0"}, "value": [1.0, "46"]}
        body = json.dumps(
            {"status": "success", "data": {"resultType": "vector", "result": [series]}}
        ).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def serving(http: HTTPServer) -> Iterator[None]:
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield
    http.shutdown()
    thread.join()
    http.server_close()


@pytest.fixture
def server() -> Iterator[str]:
    http = HTTPServer(("127.0.0.1", 0), _FakePrometheus)
    with serving(http):
        yield f"http://127.0.0.1:{http.server_port}"


async def test_samples_are_read_from_prometheus(server: str) -> None:
    (sample,) = await Prometheus(server).query(TRAINERS.promql)
    assert (sample.name, sample.value, sample.time) == ("cra_trainer_step", 46.0, 1.0)


async def test_a_refused_query_and_a_dead_server_are_metrics_errors(server: str) -> None:
    with pytest.raises(QueryError, match=r"bad\(.*400"):
        await Prometheus(server).query("bad(")
    async with asyncio.timeout(5):
        with pytest.raises(MetricsError, match="ConnectionError"):
            await Prometheus("http://127.0.0.1:9").query("up")


async def test_the_token_that_the_file_holds_now_is_sent_along(server: str, tmp_path: Path) -> None:
    token = tmp_path / "token"
    prometheus = Prometheus(f"{server}/guarded", token_file=token)
    with pytest.raises(MetricsError, match="FileNotFoundError"):
        await prometheus.query("up")
    token.write_text("old\n")
    with pytest.raises(MetricsError, match="401"):
        await prometheus.query("up")
    token.write_text("rotated\n")
    assert len(await prometheus.query("up")) == 1


async def test_only_a_server_that_the_authority_signed_is_believed(tmp_path: Path) -> None:
    authority = Authority("test")
    certificate, key = authority.issue(Identity(file="prometheus", user="prometheus", hosts=["127.0.0.1"]))
    (tmp_path / "pair.pem").write_bytes(certificate + key)
    (tmp_path / "ca.crt").write_bytes(authority.pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "pair.pem")
    http = HTTPServer(("127.0.0.1", 0), _FakePrometheus)
    http.socket = context.wrap_socket(http.socket, server_side=True)
    with serving(http):
        url = f"https://127.0.0.1:{http.server_port}"
        assert len(await Prometheus(url, ca_file=tmp_path / "ca.crt").query("up")) == 1
        with pytest.raises(MetricsError, match=r"SSLError.*certificate"):
            await Prometheus(url).query("up")
