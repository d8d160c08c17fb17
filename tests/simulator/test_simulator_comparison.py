"""Comparisons: fairness, summaries, and the same figures from one process and from two."""

from __future__ import annotations

import numpy as np
import pytest

from cra_simulator.cluster import parse_cluster
from cra_simulator.comparison import Outcome, Setting, best_rates, compare
from cra_simulator.errors import DataError
from cra_simulator.fairness import finish_time_fairness
from cra_simulator.rates import at_sizes
from cra_simulator.result import JobResult, Result
from cra_simulator.schedulers import SCHEDULERS
from cra_simulator.shipped import OVERLOAD, shipped_workloads
from cra_simulator.summary import ratio, summarise
from tests.simulator.small import CLUSTER, linear, rates


def ended(*times: tuple[float, float]) -> Result:
    """Jobs that were submitted and finished then."""
    return Result(
        jobs=tuple(
            JobResult(
                name=f"job-{i}",
                application="app",
                submitted=start,
                finished=end,
                restarts=i,
                gpu_seconds=3600,
            )
            for i, (start, end) in enumerate(times)
        )
    )


def outcome(workload: str, *times: tuple[float, float], fairness: float = 1.0) -> Outcome:
    return Outcome(
        workload=workload,
        scheduler="x",
        result=ended(*times),
        fairness=np.full(len(times), fairness),
        cpu_seconds=0.0,
    )


def test_fairness_is_completion_over_a_fair_share_of_ones_own() -> None:
    # 800 steps at a step a second for each of 8 GPUs: 100 s alone.
    table = rates(app=linear(800))
    assert finish_time_fairness(ended((0, 100)), table, CLUSTER) == pytest.approx([1])
    # Two jobs all the time: each would have had 4 GPUs.
    assert finish_time_fairness(ended((0, 300), (0, 300)), table, CLUSTER) == pytest.approx([1.5, 1.5])
    # The second is there for half the time of the first, whose share is 8 / 1.5 GPUs, of which it can use 4.
    assert finish_time_fairness(ended((0, 200), (100, 200)), table, CLUSTER) == pytest.approx([1, 0.5])


def test_a_share_below_the_smallest_size_is_a_part_of_the_time() -> None:
    table = rates(app=linear(800))
    assert finish_time_fairness(ended(*[(0, 1600)] * 16), table, CLUSTER) == pytest.approx([1] * 16)


def test_summaries_count_every_job() -> None:
    total = summarise([outcome("a", (0, 100), (0, 300)), outcome("b", (0, 200), (0, 400), fairness=2.0)])
    assert (total.mean, total.median, total.makespan) == (250, 250, 350)
    assert (total.restarts, total.gpu_hours) == (0.5, 1)
    assert (total.worst_fairness, total.unfair) == (2, 0.5)


def test_the_bootstrap_is_paired() -> None:
    theirs = [outcome(str(i), (0, 100.0 * (i + 1))) for i in range(5)]
    ours = [outcome(str(i), (0, 90.0 * (i + 1))) for i in range(5)]
    over = ratio(ours, theirs)
    assert (over.value, over.low, over.high) == pytest.approx((0.9, 0.9, 0.9))
    mixed = ratio([*ours[:-1], outcome("4", (0, 600))], theirs)
    assert mixed.low == pytest.approx(0.9)
    assert mixed.value == pytest.approx(1.0)
    assert mixed.high > 1
    with pytest.raises(ValueError, match="the same workloads"):
        ratio(ours[1:], theirs[:-1])


@pytest.mark.processes
def test_two_processes_come_to_what_one_comes_to() -> None:
    workloads = {name: jobs[:12] for name, jobs in list(shipped_workloads(0.5).items())[:2]}
    alone, together = (
        compare(workloads, ["pollux", "tiresias"], Setting(), processes=processes) for processes in (1, 2)
    )
    assert [(one.workload, one.scheduler) for one in alone] == [
        ("workload-1", "pollux"), ("workload-1", "tiresias"),
        ("workload-2", "pollux"), ("workload-2", "tiresias"),
    ]  # fmt: skip
    assert [one.result for one in alone] == [one.result for one in together]


def test_errors_in_what_is_declared_hurt_who_uses_it_only() -> None:
    workloads = {"a": shipped_workloads(1.0)["workload-1"][:30]}
    for name, scheduler in (("pollux", SCHEDULERS["pollux"]), ("afs", SCHEDULERS["afs"])):
        clear, wrong = (
            compare(workloads, [name], Setting(work_sigma=sigma))[0].result.mean_seconds
            for sigma in (0.0, 1.0)
        )
        assert (clear != wrong) == scheduler.knows_remaining


def test_the_overload_is_five_times_the_load_without_a_job_twice() -> None:
    for jobs in shipped_workloads(OVERLOAD).values():
        assert len(jobs) == 5 * 160
        assert len({job.name for job in jobs}) == len(jobs)
    with pytest.raises(DataError, match=r"no workloads of load 3 are shipped; there are 0\.5, 1"):
        shipped_workloads(3.0)


def test_users_ask_for_other_sizes_than_tuning_finds() -> None:
    tuned, asked = (shipped_workloads(load)["workload-1"] for load in (1.0, "realistic"))
    assert [(job.name, job.submitted) for job in tuned] == [(job.name, job.submitted) for job in asked]
    assert [job.gpus for job in tuned] != [job.gpus for job in asked]


@pytest.mark.parametrize(
    ("spec", "message"),
    [("t4", "'t4' is not TYPE:NODESxGPUS"), ("t4:0x4", "'t4:0x4' is not"), ("t4:1x4,t4:2x4", "named once")],
)
def test_a_cluster_is_described_in_words(spec: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        parse_cluster(spec)
    pools = parse_cluster("t4:6x4, v100:4x8").pools
    assert [(pool.kind, pool.nodes, pool.gpus) for pool in pools] == [("t4", 6, 4), ("v100", 4, 8)]


def test_shipped_rates_serve_a_smaller_cluster_and_no_other() -> None:
    tables = best_rates(None, parse_cluster("t4:16x4"), frozenset(["bert"]))
    assert at_sizes(tables, parse_cluster("t4:2x4").packed_sizes()).sizes.gpus.tolist() == [0, 1, 2, 4, 8]
    with pytest.raises(DataError, match="how jobs do on 68 GPUs of 17 nodes"):
        at_sizes(tables, parse_cluster("t4:17x4").packed_sizes())


def test_who_cannot_be_compared_is_named() -> None:
    workloads = {"a": shipped_workloads(0.5)["workload-1"]}
    with pytest.raises(DataError, match="there is no policy 'best'"):
        compare(workloads, ["best"], Setting())
    with pytest.raises(DataError, match="afs know one type of GPU"):
        compare(workloads, ["afs"], Setting(cluster=parse_cluster("t4:1x4,v100:1x4")))
