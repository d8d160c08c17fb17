"""Restarts that differ, jobs that fail, and policies that see badly."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cra_operator.controller.policy import ClusterObservation, Decision
from cra_simulator.blur import Blurred
from cra_simulator.simulation import Rules, simulate
from tests.simulator.small import CLUSTER, Script, jobs, linear, rates


def finished(rules: Rules, count: int = 8, work: float = 1000) -> list[float]:
    result = simulate(jobs(*[0] * count), rates(app=linear(work)), CLUSTER, Script([1] * count), rules=rules)
    return [job.finished for job in result.jobs]


def test_restarts_differ_around_their_mean() -> None:
    ends = [end for seed in range(20) for end in finished(Rules(restart_sigma=0.5, seed=seed))]
    starts = np.array(ends) - 1060
    assert len(set(ends)) > 10
    assert starts.mean() == pytest.approx(30, rel=0.15)
    assert finished(Rules(restart_sigma=0.5, seed=1)) == finished(Rules(restart_sigma=0.5, seed=1))


def test_failures_cost_a_restart_and_what_was_not_saved() -> None:
    quiet = finished(Rules())
    often = finished(Rules(failures_per_gpu_day=200))
    costly = finished(Rules(failures_per_gpu_day=200, failure_loses=20))
    assert all(a <= b <= c for a, b, c in zip(quiet, often, costly, strict=True))
    assert sum(quiet) < sum(often) < sum(costly)
    # Each of them is a whole number of restarts late.
    assert {(b - a) % 30 for a, b in zip(quiet, often, strict=True)} == {0}


class Memory:
    """Gives each job one GPU and remembers what it saw."""

    def __init__(self) -> None:
        self.seen: list[ClusterObservation] = []

    def decide(self, seen: ClusterObservation) -> Decision:
        self.seen.append(replace(seen, rate=seen.rate.copy(), remaining=seen.remaining.copy()))
        return Decision(choice=np.ones(len(seen), dtype=np.int64))


def test_errors_of_work_stay_and_errors_of_rates_do_not() -> None:
    memory = Memory()
    simulate(jobs(0, 0), rates(app=linear(300)), CLUSTER, Blurred(memory, rate_sigma=0.3, work_sigma=1.0))
    first, second = memory.seen[:2]
    error = first.remaining / 300
    assert error[0] != error[1]
    assert second.remaining / 270 == pytest.approx(error)
    assert (first.rate[0, 1:] != second.rate[0, 1:]).all()
    assert (first.rate[:, 0] == 0).all()


def test_what_is_late_was_true_then() -> None:
    memory = Memory()
    simulate(jobs(0, 130), rates(app=linear(300)), CLUSTER, Blurred(memory, delay_seconds=120))
    # The second job comes at 180 and is seen as it is until it is two minutes old.
    assert [seen.remaining.tolist() for seen in memory.seen[:5]] == [
        [300], [270], [300, 300], [270, 270], [210, 300]
    ]  # fmt: skip


def test_clear_glass_changes_nothing() -> None:
    memory = Memory()
    simulate(jobs(0), rates(app=linear(100)), CLUSTER, Blurred(memory))
    assert [seen.remaining[0] for seen in memory.seen] == [100, 70, 10]
