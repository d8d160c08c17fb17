"""Observing: samples are joined to jobs by pod, and missing metrics are an observation too."""

import asyncio
import json
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any
from urllib.parse import parse_qs, urlparse

import pytest

from cra_operator.api import Job, JobKey, JobStatus
from cra_operator.controller.join import Sample, observe
from cra_operator.controller.observation import Observation
from cra_operator.controller.observe import GPU_QUERY, TRAINER_QUERY, MetricsError, Observer, Prometheus
from cra_operator.view import PodView
from tests.operator.operator_world import START, make_job, make_pod

KEY: JobKey = ("default", "digits")
PODS = [make_pod(0), make_pod(1)]


def trainer(metric: str, value: float, rank: int = 0, **labels: str) -> Sample:
    base = {"__name__": f"cra_trainer_{metric}", "namespace": "default", "pod": f"digits-1-{rank}"}
    return Sample(labels={**base, "rank": str(rank), **labels}, value=value)


def gpu(percent: float, pod: str = "digits-1-0", **labels: str) -> Sample:
    base = {"__name__": "DCGM_FI_DEV_GPU_UTIL", "namespace": "default", "pod": pod}
    return Sample(labels={**base, **labels}, value=percent)


def look(trainers: list[Sample], gpus: list[Sample] | None = None) -> Observation:
    return observe({KEY: PODS}, trainers=trainers, gpus=gpus or [], now=START)[KEY]


def test_rank_zero_tells_the_progress_and_every_rank_its_part() -> None:
    seen = look(
        [
            trainer("progress_ratio", 0.25),
            trainer("epoch", 2),
            trainer("epochs", 8),
            trainer("step", 46),
            trainer("loss", 0.7),
            trainer("eta_seconds", 30),
            trainer("samples_per_second", 800),
            trainer("trained_samples", 1500),
            trainer("share_ratio", 0.6),
            trainer("share_ratio", 0.4, rank=1),
            trainer("performance", 480),
            trainer("checkpoint_step", 40),
            trainer("checkpoint_timestamp_seconds", START.timestamp()),
        ]
    )
    assert seen.available
    progress = seen.progress
    assert progress is not None
    assert (progress.epoch, progress.epochs, progress.step, progress.samples) == (2, 8, 46, 1500)
    assert (progress.ratio, progress.loss, progress.eta_seconds) == (0.25, 0.7, 30)
    assert {pod: worker.share for pod, worker in seen.workers.items()} == {
        "digits-1-0": 0.6,
        "digits-1-1": 0.4,
    }
    assert seen.workers["digits-1-0"].performance == 480
    assert seen.checkpoint is not None
    assert (seen.checkpoint.step, seen.checkpoint.time) == (40, START)


def test_a_pod_of_several_ranks_is_their_sum() -> None:
    seen = look([trainer("share_ratio", 0.2), trainer("share_ratio", 0.3, rank=0, local="1")])
    assert seen.workers["digits-1-0"].share == pytest.approx(0.5)


def test_the_pause_is_rank_zeros() -> None:
    ranks = [trainer("pause_seconds", 0.3), trainer("pause_seconds", 7.0, local="1", rank=0)]
    ranks[1] = Sample(labels={**ranks[1].labels, "rank": "1"}, value=7.0)
    assert look(ranks).pause_seconds == look(ranks[::-1]).pause_seconds == 0.3
    assert look([trainer("step", 1)]).pause_seconds is None


def test_utilization_is_the_mean_of_the_jobs_gpus() -> None:
    gpus = [gpu(90), gpu(70, "digits-1-1"), gpu(5, "other-1-0"), gpu(1, namespace="elsewhere")]
    assert look([trainer("step", 1)], gpus).utilization == 0.8


def test_an_exporter_whose_labels_lost_is_understood() -> None:
    shadowed = gpu(60, pod="dcgm-exporter-x", exported_pod="digits-1-0", exported_namespace="default")
    assert look([trainer("step", 1)], [shadowed]).utilization == 0.6


def test_no_samples_is_an_observation() -> None:
    seen = look([], [gpu(50)])
    assert (seen.available, seen.reason) == (False, "NoSamples")


def test_values_that_are_no_numbers_are_left_out() -> None:
    seen = look([trainer("step", 7), trainer("loss", float("nan")), trainer("eta_seconds", float("inf"))])
    assert seen.progress is not None
    assert (seen.progress.step, seen.progress.loss, seen.progress.eta_seconds) == (7, None, None)


@pytest.mark.parametrize(("samples", "failing"), [([1.0], True), ([0.0], False), ([], False)])
def test_rank_zero_tells_whether_checkpoints_fail(samples: list[float], failing: bool) -> None:
    seen = look([trainer("step", 1), *(trainer("checkpoint_failing", value) for value in samples)])
    assert seen.checkpoint_failing is failing


def test_no_checkpoint_yet_is_none() -> None:
    seen = look(
        [trainer("step", 1), trainer("checkpoint_step", 0), trainer("checkpoint_timestamp_seconds", 0)]
    )
    assert seen.checkpoint is None


def test_two_looks_that_see_the_same_are_equal() -> None:
    one = look([trainer("step", 1)])
    later = observe({KEY: PODS}, trainers=[trainer("step", 1)], gpus=[], now=START.replace(year=2027))[KEY]
    assert one == later
    assert one != look([trainer("step", 2)])


# --- the loop -----------------------------------------------------------------------------------------------


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
        return self.samples if query == TRAINER_QUERY else []


def running_job(name: str = "digits", phase: str = "Running") -> Job:
    workers = [{"rank": rank, "pod": f"{name}-1-{rank}"} for rank in (0, 1)]
    status = JobStatus.model_validate({"phase": phase, "generation": 1, "workers": workers})
    return make_job(name).model_copy(update={"status": status})


def an_observer(
    source: Source | None, *jobs: Job, pods: Sequence[PodView] = PODS
) -> tuple[Observer, list[Observation]]:
    told: list[Observation] = []

    def pods_of(key: JobKey) -> Sequence[PodView]:
        return pods if key == KEY else []

    return Observer(source, jobs=jobs, pods_of=pods_of, on_change=lambda key, seen: told.append(seen)), told


async def test_two_queries_a_look_however_many_jobs() -> None:
    source = Source(trainer("step", 1))
    observer, _ = an_observer(source, *(running_job(f"j{number}") for number in range(50)))
    await observer.look()
    assert sorted(source.queries) == sorted([TRAINER_QUERY, GPU_QUERY])


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


@pytest.fixture
def server() -> Iterator[str]:
    http = HTTPServer(("127.0.0.1", 0), _FakePrometheus)
    thread = threading.Thread(target=http.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{http.server_port}"
    http.shutdown()
    thread.join()
    http.server_close()


async def test_samples_are_read_from_prometheus(server: str) -> None:
    (sample,) = await Prometheus(server).query(TRAINER_QUERY)
    assert (sample.name, sample.value) == ("cra_trainer_step", 46.0)


async def test_a_refused_query_and_a_dead_server_are_metrics_errors(server: str) -> None:
    with pytest.raises(MetricsError, match="400"):
        await Prometheus(server).query("bad(")
    async with asyncio.timeout(5):
        with pytest.raises(MetricsError, match="ConnectionError"):
            await Prometheus("http://127.0.0.1:9").query(GPU_QUERY)
