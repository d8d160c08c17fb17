"""The cluster as policies see it."""

from __future__ import annotations

import itertools
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pytest

from cra_operator.api import Job, JobStatus
from cra_operator.controller.census import Census, census
from cra_operator.controller.modelling import Outlooks
from cra_operator.view import NodeView, PodView, Taint
from tests.operator.operator_world import START, make_job, make_node, make_pod

NOW = START + timedelta(minutes=10)


def speed(gpus: int, seconds: float, *, batch: int = 64, kind: str = "A100") -> dict[str, Any]:
    return {
        "gpus": gpus,
        "nodes": -(-gpus // 8),
        "gpuType": kind,
        "batchSize": batch,
        "stepSeconds": seconds,
        "time": "2026-01-01T00:05:00Z",
    }


def with_status(job: Job, **status: Any) -> Job:
    return job.model_copy(update={"status": JobStatus.model_validate(status)})


def running(job: Job, gpus: int, **status: Any) -> Job:
    return with_status(job, phase="Running", run={"gpus": gpus}, gpus=gpus, **status)


def count(
    *jobs: Job,
    pods: list[PodView] | None = None,
    nodes: list[NodeView] | None = None,
    now: datetime = NOW,
    outlooks: Outlooks | None = None,
    **priorities: int,
) -> Census:
    return census(
        jobs,
        pods=pods or [],
        nodes=[make_node()] if nodes is None else nodes,
        priorities={("default", name): value for name, value in priorities.items()},
        now=now,
        outlooks=outlooks or Outlooks(),
    )


def gpus(found: Census, name: str | None = None) -> list[int]:
    """The sizes on which a job may run; without its name, the first."""
    rate = found.seen.rate[0 if name is None else found.keys.index(("default", name))]
    offered: list[int] = found.seen.sizes.gpus[rate > 0].tolist()
    return offered


def test_a_job_may_run_on_whole_workers_within_its_bounds() -> None:
    pairs = make_job("pairs", minimum=2, maximum=6, scaling={"gpusPerWorker": 2})
    found = count(make_job("any", minimum=3, maximum=5), pairs)
    assert (gpus(found, "any"), gpus(found, "pairs")) == ([3, 4, 5], [2, 4, 6])
    assert found.seen.sizes.gpus[0] == 0


def test_a_large_cluster_offers_coarser_sizes_but_the_bounds_of_every_job() -> None:
    nodes = [make_node(f"n{i}") for i in range(512)]
    found = count(make_job("large", maximum=4096, training={"batchSize": 4096}), nodes=nodes)
    offered = gpus(found)
    assert offered[:16] == list(range(1, 17))
    assert offered[-1] == 4096
    assert len(offered) < 80
    assert max(b / a for a, b in itertools.pairwise(offered[15:])) < 1.2
    assert list(found.seen.sizes.nodes[1:]) == [-(-g // 8) for g in offered]


def test_capacity_is_what_others_leave_on_nodes_that_take_pods() -> None:
    nodes = [
        make_node("gpu-0"),
        make_node("gpu-1"),
        make_node("gone", ready=False),
        make_node("off", schedulable=False),
    ]
    pods = [
        make_pod(0),
        make_pod(0, name="notebook", job="", gpus=3, node="gpu-1"),
        make_pod(0, name="done", job="", gpus=2, node="gpu-1", phase="Succeeded"),
        make_pod(0, name="elsewhere", job="", gpus=4, node="off"),
        make_pod(1, node="off", gpus=2),
    ]
    found = count(running(make_job(), 3), pods=pods, nodes=nodes)
    assert found.seen.capacity.tolist() == [8 + (8 - 3) + 2]
    assert found.seen.node_gpus.tolist() == [8]


def test_a_job_is_offered_what_the_nodes_that_admit_it_have() -> None:
    t4 = {"nvidia.com/gpu.product": "T4"}
    nodes = [make_node("a"), make_node("b", 3, labels=t4), make_node("c", 4, taints=(Taint(key="team"),))]
    pod: dict[str, Any] = {"containers": []}
    tolerant = {**pod, "tolerations": [{"key": "team", "operator": "Exists"}]}
    found = count(
        make_job("a", maximum=64),
        make_job("b", maximum=64, template={"spec": {**pod, "nodeSelector": t4}}),
        make_job("c", maximum=64, template={"spec": tolerant}),
        make_job("d", maximum=64, scaling={"gpusPerWorker": 2}),
        make_job("e", minimum=6, template={"spec": {**pod, "nodeSelector": t4}}),
        nodes=nodes,
    )
    most = [max(gpus(found, name), default=0) for name in "abcde"]
    assert most == [11, 3, 15, 10, 0]
    assert found.seen.capacity.tolist() == [15]


def test_a_job_that_runs_keeps_its_size_on_offer_when_nodes_are_gone() -> None:
    assert max(gpus(count(running(make_job(), 6), nodes=[make_node(gpus=4)]))) == 6


def test_rates_are_as_measured_and_hopeful_beyond() -> None:
    job = running(make_job(), 2, speeds=[speed(1, 0.4), speed(2, 0.25)])
    seen = count(job).seen
    assert seen.rate[0, 1:3] == pytest.approx([1 / 0.4, 1 / 0.25])
    assert seen.rate[0, 2] < seen.rate[0, 4] <= 2 * seen.rate[0, 2] * 1.001
    assert seen.rate[0, 0] == 0


def test_a_job_never_measured_is_taken_to_scale() -> None:
    rate = count(with_status(make_job(), phase="Pending")).seen.rate[0]
    assert rate[2] / rate[1] > 1.6


def test_a_job_on_another_type_is_predicted_from_its_points_there() -> None:
    speeds = [speed(1, 0.4), speed(2, 0.2), speed(1, 0.8, kind="T4")]
    workers = [{"rank": 0, "pod": "digits-1-0", "gpus": 1, "gpuType": "T4"}]
    rate = count(running(make_job(), 1, speeds=speeds, workers=workers)).seen.rate[0]
    assert rate[1:3] == pytest.approx([1 / 0.8, 1 / 0.4], rel=0.02)


def test_a_job_on_mixed_types_would_shrink_to_the_type_of_its_lowest_ranks() -> None:
    speeds = [speed(1, 0.4), speed(2, 0.2), {**speed(4, 0.2), "gpuType": None}]
    types = ["A100", "A100", "T4", "T4"]
    workers = [
        {"rank": rank, "pod": f"p{rank}", "gpus": 1, "gpuType": kind} for rank, kind in enumerate(types)
    ]
    rate = count(running(make_job(), 4, speeds=speeds, workers=workers)).seen.rate[0]
    assert rate[[1, 2, 4]] == pytest.approx([1 / 0.4, 1 / 0.2, 1 / 0.2])


def test_an_adaptive_batch_is_chosen_for_each_size() -> None:
    training = {"batchSize": 64, "maxBatchSize": 1024}
    points = [speed(g, 0.1 + m / g / 1000, batch=m) for g in (1, 2, 4, 8) for m in (64, 256)]
    fixed = count(running(make_job(), 1, speeds=points, noiseScale=5000)).seen
    adaptive = count(running(make_job(training=training), 1, speeds=points, noiseScale=5000)).seen
    assert adaptive.rate[0, -1] > 3 * fixed.rate[0, -1]
    assert adaptive.throughput[0] == pytest.approx(fixed.throughput[0])


def test_without_a_noise_scale_a_larger_batch_promises_nothing() -> None:
    training = {"batchSize": 64, "maxBatchSize": 1024}
    seen = count(running(make_job(training=training), 1, speeds=[speed(1, 0.4)])).seen
    assert seen.rate[0, 1] == pytest.approx(1 / 0.4)


def test_what_is_left_follows_from_what_is_done() -> None:
    known = {"progress": {"ratio": 0.25, "samples": 6400}, "batchSize": 128, "speeds": [speed(1, 0.4)]}
    seen = count(running(make_job("a"), 1, **known), running(make_job("b"), 1)).seen
    assert seen.remaining[0] == pytest.approx(6400 * 3 / 64)
    assert seen.steps_left[0] == pytest.approx(6400 * 3 / 128)
    assert np.isnan(seen.remaining[1])
    assert np.isnan(seen.steps_left[1])


def test_what_is_left_is_counted_in_steps_of_the_own_batch_as_the_job_reports_them() -> None:
    # A quarter of the samples, in batches so large that they were worth only 40 of 100 own steps.
    done = {"ratio": 0.25, "samples": 6400, "scaleInvariantSteps": 40.0}
    seen = count(running(make_job("a"), 1, progress=done, batchSize=128, speeds=[speed(1, 0.4)])).seen
    assert seen.remaining[0] == pytest.approx(40 * 3)
    assert seen.steps_left[0] == pytest.approx(6400 * 3 / 128), "the declared end is one of samples"


def test_a_job_may_have_twice_what_it_was_seen_on() -> None:
    jobs = [
        with_status(make_job("a", minimum=3), phase="Pending"),
        running(make_job("b"), 2),
        running(make_job("c"), 1, speeds=[speed(4, 0.1)]),
    ]
    assert count(*jobs).seen.limit.tolist() == [3, 4, 8]


def test_columns_name_the_present_size_and_the_one_asked_for() -> None:
    pinned = make_job("b", scaling={"gpus": 5})
    seen = count(running(make_job("a"), 2), with_status(pinned, phase="Pending")).seen
    assert seen.sizes.gpus[seen.current].tolist() == [2, 0]
    assert seen.sizes.gpus[seen.request].tolist() == [1, 5]


def test_a_change_costs_what_the_last_one_did() -> None:
    times = {"startTime": START, "runningTime": START + timedelta(seconds=12)}
    jobs = [
        running(make_job("a"), 1, pauseSeconds=0.4, **times),
        running(make_job("b", template={"spec": {}}), 1, pauseSeconds=0.4, **times),
    ]
    assert count(*jobs).seen.restart_seconds.tolist() == [6.4, 12]


def test_a_job_that_changes_makes_no_progress_for_now() -> None:
    changing = {"type": "Rescaling", "status": "True", "reason": "Growing", "lastTransitionTime": START}
    jobs = [
        running(make_job("a"), 1, pauseSeconds=0.4, conditions=[changing]),
        running(make_job("b"), 1, pauseSeconds=0.4),
    ]
    seen = count(*jobs).seen
    assert seen.pause_left.tolist() == [seen.restart_seconds[0], 0]


def test_jobs_stand_in_order_of_submission_under_numbers_that_stay() -> None:
    old, young = make_job("z"), make_job("a")
    metadata = young.metadata.model_copy(update={"creation_timestamp": START + timedelta(seconds=5)})
    young = young.model_copy(update={"metadata": metadata})
    found = count(young, old, z=7)
    assert [name for _, name in found.keys] == ["z", "a"]
    assert found.seen.ids[0] < found.seen.ids[1]
    assert found.seen.age.tolist() == [600, 595]
    assert found.seen.priority.tolist() == [7, 0]
    assert count(young).seen.ids[0] == found.seen.ids[1]


def test_jobs_submitted_together_stand_in_the_order_of_their_numbers() -> None:
    ids = count(*[make_job(name) for name in "abcdefgh"]).seen.ids.tolist()
    assert ids == sorted(set(ids))


def test_speeds_that_wobble_keep_their_model_and_others_do_not() -> None:
    outlooks = Outlooks()
    first = count(running(make_job(), 1, speeds=[speed(1, 0.400)]), outlooks=outlooks).seen.rate
    wobbled = count(running(make_job(), 1, speeds=[speed(1, 0.402)]), outlooks=outlooks).seen.rate
    moved = count(running(make_job(), 1, speeds=[speed(1, 0.8)]), outlooks=outlooks).seen.rate
    assert wobbled == pytest.approx(first, rel=1e-12)
    assert moved[0, 1] == pytest.approx(1 / 0.8)


def test_nobody_is_there() -> None:
    seen = count().seen
    assert (len(seen), seen.rate.shape, seen.capacity.tolist()) == (0, (0, 1), [8])
