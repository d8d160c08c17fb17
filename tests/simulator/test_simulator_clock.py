"""Ticks, restarts, epochs and limits, on workloads that can be followed by hand."""

from __future__ import annotations

import numpy as np
import pytest

from cra_operator.controller.policy import ClusterObservation
from cra_simulator.errors import SimulationError
from cra_simulator.simulation import Rules, simulate
from tests.simulator.small import CLUSTER, Script, jobs, linear, rates


def test_a_job_waits_for_the_tick_then_for_its_start_and_ends_on_the_second() -> None:
    done = simulate(jobs(10), rates(app=linear(100)), CLUSTER, Script([1])).jobs[0]
    # Seen at 60, starts at 90, needs 100 s.
    assert done.finished == 190
    assert done.completion_seconds == 180
    assert done.restarts == 0
    assert done.gpu_seconds == 130


def test_a_submission_on_the_tick_is_seen_at_that_tick() -> None:
    first, second = simulate(jobs(60, 61), rates(app=linear(10)), CLUSTER, Script([1, 1])).jobs
    assert (first.finished, second.finished) == (100, 160)


def test_idle_hours_are_skipped_without_losing_the_rhythm() -> None:
    assert simulate(jobs(100_000), rates(app=linear(10)), CLUSTER, Script([1])).jobs[0].finished == 100_060


def test_every_change_costs_a_restart() -> None:
    done = simulate(jobs(0), rates(app=linear(200)), CLUSTER, Script([1], [2])).jobs[0]
    # 60..120: 30 s at 1; 120..: 30 s of waiting, then 170 steps at 2 a second.
    assert done.finished == 120 + 30 + 85
    assert done.restarts == 1


def test_to_be_paused_is_no_restart_but_to_come_back_is() -> None:
    done = simulate(jobs(0), rates(app=linear(100)), CLUSTER, Script([1], [0], [1])).jobs[0]
    assert done.restarts == 1
    assert done.finished == 180 + 30 + 70


def test_an_application_may_have_its_own_restart() -> None:
    rules = Rules(restart_of={"app": 5.0})
    assert simulate(jobs(0), rates(app=linear(10)), CLUSTER, Script([1]), rules=rules).jobs[0].finished == 75


def test_epochs_end_on_whole_seconds() -> None:
    done = simulate(jobs(0), rates(app=linear(10.4, 20.8, 31.2)), CLUSTER, Script([1])).jobs[0]
    assert done.finished == 60 + 30 + 10 + 10 + 10


def test_a_job_may_have_twice_what_it_has_run_on() -> None:
    limits = []

    def look(seen: ClusterObservation) -> None:
        limits.append(int(seen.limit[0]))

    simulate(jobs(0), rates(app=linear(900)), CLUSTER, Script([1], [2], [4], [8], look=look))
    assert limits[:5] == [1, 2, 4, 8, 8]


def test_what_is_seen_is_what_is() -> None:
    seen_before = []

    def look(seen: ClusterObservation) -> None:
        seen_before.append(
            (
                seen.time,
                seen.age[0],
                seen.remaining[0],
                seen.attained[0],
                seen.pause_left[0],
                seen.restarts[0],
            )
        )

    simulate(jobs(30), rates(app=linear(100)), CLUSTER, Script([1], [2], look=look))
    assert seen_before == [(60, 30, 100, 0, 0, 0), (120, 90, 70, 60, 0, 0), (180, 150, 10, 180, 0, 1)]


@pytest.mark.parametrize(
    ("gpus", "message"), [([8, 1], "more GPUs than there are"), ([0, 0], "not done after")]
)
def test_what_cannot_be_is_an_error(gpus: list[int], message: str) -> None:
    rules = Rules(limit_growth=False, horizon=10_000)
    with pytest.raises(SimulationError, match=message):
        simulate(jobs(0, 0), rates(app=linear(1000)), CLUSTER, Script(gpus), rules=rules)


def test_an_unknown_application_is_an_error() -> None:
    with pytest.raises(SimulationError, match="job job-0: there is no rate table 'other'"):
        simulate(jobs(0, application="other"), rates(app=linear(1)), CLUSTER, Script([1]))


def test_the_result_sums_up() -> None:
    done = simulate(jobs(0, 0, 60), rates(app=linear(10)), CLUSTER, Script([1, 1, 1]))
    assert done.mean_seconds == pytest.approx(np.mean([100, 100, 40]))
    assert done.median_seconds == 100
    assert done.makespan_seconds == 100
    assert done.gpu_hours_per_job == pytest.approx(40 / 3600)
