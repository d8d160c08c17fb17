"""Observing: samples are joined to jobs by pod, and missing metrics are an observation too."""

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
from cra_operator.controller.join import Watch, observe
from cra_operator.controller.observation import Observation
from cra_operator.controller.observe import Observer, steady_since
from cra_operator.controller.prometheus import MetricsError, Prometheus, QueryError, Sample
from cra_operator.controller.signals import queries
from cra_operator.view import PodView
from e2e.local.pki import Authority, Identity
from tests.operator.operator_world import START, make_job, make_pod

KEY: JobKey = ("default", "digits")
PODS = [make_pod(0), make_pod(1)]
QUERIES = queries({})
(TRAINERS,) = QUERIES.trainers


def trainer(metric: str, value: float, rank: int = 0, **labels: str) -> Sample:
    base = {"__name__": f"cra_trainer_{metric}", "namespace": "default", "pod": f"digits-1-{rank}"}
    return Sample(labels={**base, "rank": str(rank), **labels}, value=value)


def gpu(percent: float, pod: str = "digits-1-0", **labels: str) -> Sample:
    base = {"__name__": "DCGM_FI_DEV_GPU_UTIL", "namespace": "default", "pod": pod}
    return Sample(labels={**base, **labels}, value=percent)


def scraped(ago: float, rank: int = 0) -> Sample:
    """What `timestamp()` tells of a pod; Prometheus' clock is an hour ahead of ours."""
    clock = (START + timedelta(hours=1)).timestamp()
    return Sample(labels={"namespace": "default", "pod": f"digits-1-{rank}"}, value=clock - ago, time=clock)


def look(
    trainers: list[Sample],
    gpus: list[Sample] | None = None,
    scrapes: list[Sample] | None = None,
    *,
    pods: Sequence[PodView] = PODS,
    steady: datetime | None = START,
    now: datetime = START,
) -> Observation:
    return observe(
        {KEY: Watch(pods=pods, steady=steady)},
        trainers=trainers,
        gpus=gpus or [],
        scrapes=scrapes or [],
        now=now,
        stale_after=45,
    )[KEY]


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


def test_the_most_telling_metric_of_each_gpu_counts() -> None:
    def named(name: str, value: float, uuid: str) -> Sample:
        return gpu(value, __name__=name, UUID=uuid)

    gpus = [
        named("DCGM_FI_DEV_GPU_UTIL", 99, "a"),
        named("DCGM_FI_PROF_GR_ENGINE_ACTIVE", 0.9, "a"),
        named("DCGM_FI_PROF_SM_ACTIVE", 0.4, "a"),
        named("DCGM_FI_PROF_GR_ENGINE_ACTIVE", 0.6, "b"),
        named("DCGM_FI_DEV_GPU_UTIL", 100, "b"),
        named("DCGM_FI_PROF_SM_ACTIVE", float("nan"), "b"),
    ]
    assert look([trainer("step", 1)], gpus).utilization == pytest.approx(0.5)
    assert look([trainer("step", 1)], gpus[::-1]).utilization == pytest.approx(0.5)


def test_instances_of_one_gpu_count_each() -> None:
    gpus = [gpu(90, UUID="a", GPU_I_ID="1"), gpu(30, UUID="a", GPU_I_ID="2")]
    assert look([trainer("step", 1)], gpus).utilization == pytest.approx(0.6)


def test_the_hosts_name_does_not_matter() -> None:
    gpus = [gpu(90, UUID="a", Hostname="x"), gpu(90, UUID="a", hostname="x"), gpu(30, "digits-1-1", UUID="b")]
    assert look([trainer("step", 1)], gpus).utilization == pytest.approx(0.6)


# --- fresh, stale, steady -----------------------------------------------------------------------------------

PACE = [
    trainer("batch_size", 64),
    trainer("samples_per_second", 160),
    trainer("world_size", 2),
    trainer("world_size", 2, rank=1),
]


def test_stale_samples_are_no_samples_and_say_so() -> None:
    seen = look([trainer("step", 7), *PACE], scrapes=[scraped(46, 0), scraped(46, 1)])
    assert (seen.available, seen.reason) == (False, "Stale")
    assert "45 s" in seen.message
    assert look([trainer("step", 7)], scrapes=[scraped(44)]).available


def test_a_pod_that_is_scraped_no_more_drops_out_alone() -> None:
    shares = [trainer("share_ratio", 0.5), trainer("share_ratio", 0.5, rank=1)]
    assert list(look(shares, scrapes=[scraped(1, 0), scraped(300, 1)]).workers) == ["digits-1-0"]


def test_the_pace_is_the_batch_over_the_samples_of_all_ranks() -> None:
    pace = look(PACE).pace
    assert pace is not None
    assert pace.step_seconds == pytest.approx(0.4)
    assert pace.compute_seconds is None


def test_without_samples_per_second_the_last_step_is_the_pace() -> None:
    pace = look([trainer("step_seconds", 0.7), *PACE[2:]]).pace
    assert pace is not None
    assert pace.step_seconds == 0.7


def test_the_rank_that_waits_least_tells_what_the_reduction_costs() -> None:
    split = [
        trainer("compute_seconds", 0.3),
        trainer("communication_seconds", 0.1),
        trainer("compute_seconds", 0.1, rank=1),
        trainer("communication_seconds", 0.3, rank=1),
    ]
    pace = look([*split, *PACE]).pace
    assert pace is not None
    assert pace.compute_seconds == pytest.approx(0.4 * 0.3 / (0.3 + 0.1))


def test_a_scrape_from_before_the_job_was_steady_tells_no_pace() -> None:
    def pace(ago: float) -> object:
        now = START + timedelta(seconds=60)
        return look(
            PACE, scrapes=[scraped(ago, 0), scraped(ago, 1)], steady=now - timedelta(seconds=5), now=now
        ).pace

    assert pace(6) is None
    assert pace(4) is not None


def test_a_job_that_changes_has_no_pace() -> None:
    assert look(PACE, steady=None).pace is None


@pytest.mark.parametrize("known", ["world_size", "pods"])
def test_a_group_that_is_not_seen_whole_has_no_pace(known: str) -> None:
    of_three = [replace(sample, value=3.0) if "world" in sample.name else sample for sample in PACE]
    seen = look(of_three) if known == "world_size" else look(PACE, pods=[*PODS, make_pod(2)])
    assert seen.available
    assert seen.pace is None


def test_a_script_with_series_of_its_own_needs_only_those_of_rank_zero() -> None:
    pace = look([trainer("samples_per_second", 160), trainer("batch_size", 64)]).pace
    assert pace is not None
    assert pace.pods == {"digits-1-0", "digits-1-1"}
    assert look([trainer("samples_per_second", 160, rank=1), trainer("batch_size", 64, rank=1)]).pace is None


def test_batch_and_noise_are_rank_zeros() -> None:
    seen = look([trainer("batch_size", 128), trainer("noise_scale", 812.5)])
    assert (seen.batch_size, seen.noise_scale) == (128, 812.5)


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


def test_a_rank_that_is_slow_for_good_makes_its_pod_a_straggler() -> None:
    seen = look([trainer("straggler", 1.0), trainer("share_ratio", 0.5)])
    assert [worker.straggler for worker in seen.workers.values()] == [True]
    seen = look([trainer("straggler", 0.0), trainer("share_ratio", 0.5)])
    assert [worker.straggler for worker in seen.workers.values()] == [False]


def test_no_checkpoint_yet_is_none() -> None:
    seen = look(
        [trainer("step", 1), trainer("checkpoint_step", 0), trainer("checkpoint_timestamp_seconds", 0)]
    )
    assert seen.checkpoint is None


def test_two_looks_that_see_the_same_are_equal() -> None:
    one = look([trainer("step", 1)])
    later = look([trainer("step", 1)], now=START.replace(year=2027))
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
