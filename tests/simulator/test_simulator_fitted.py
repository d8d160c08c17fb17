"""Policies that see fitted models: what they are told before, while and after a size was measured."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cra_operator.controller.policy import ClusterObservation, Decision
from cra_simulator import data
from cra_simulator.cluster import POLLUX_CLUSTER
from cra_simulator.comparison import Setting, best_rates, compare
from cra_simulator.fitted import Fitted
from cra_simulator.shipped import shipped_workloads
from cra_simulator.simulation import simulate
from cra_simulator.workload import TraceJob

JOBS = (TraceJob(name="a", submitted=0, application="cifar10"),)
RATES = best_rates(None, POLLUX_CLUSTER, frozenset(["cifar10"]))


class Grow:
    """Doubles a job's GPUs at every look, up to sixteen, and remembers what it saw."""

    def __init__(self) -> None:
        self.seen: list[ClusterObservation] = []

    def decide(self, seen: ClusterObservation) -> Decision:
        kept = {name: getattr(seen, name).copy() for name in ("rate", "remaining", "current")}
        self.seen.append(replace(seen, **kept))
        largest = seen.sizes.gpus * (seen.sizes.gpus <= min(seen.limit[0], 16))
        return Decision(choice=np.array([np.argmax(largest)]))


@pytest.fixture(scope="module")
def looks() -> tuple[list[ClusterObservation], list[ClusterObservation]]:
    """The same run as it was and as it was shown."""
    true, shown = Grow(), Grow()
    simulate(JOBS, RATES, POLLUX_CLUSTER, true)
    simulate(JOBS, RATES, POLLUX_CLUSTER, Fitted(shown, JOBS, data.profiles(), POLLUX_CLUSTER))
    return true.seen, shown.seen


def test_of_a_job_that_never_trained_nothing_is_known_but_that_a_second_gpu_helps(
    looks: tuple[list[ClusterObservation], list[ClusterObservation]],
) -> None:
    first = looks[1][0]
    assert np.isnan(first.remaining[0])
    runs = first.rate[0] > 0
    assert (runs == (looks[0][0].rate[0] > 0)).all()
    assert first.rate[0, 2] > first.rate[0, 1]


def test_a_size_that_was_measured_is_known(
    looks: tuple[list[ClusterObservation], list[ClusterObservation]],
) -> None:
    true, shown = looks
    assert len(true) == len(shown)
    column = int(np.flatnonzero(shown[-1].sizes.gpus == 16)[0])
    # Nearly: the batch is one of twelve here, of fifty there.
    assert shown[-1].rate[0, column] == pytest.approx(true[-1].rate[0, column], rel=0.1)
    assert shown[-1].remaining[0] == true[-1].remaining[0]


def test_what_was_not_measured_looks_better_than_it_is(
    looks: tuple[list[ClusterObservation], list[ClusterObservation]],
) -> None:
    true, shown = looks
    alone = next(i for i, seen in enumerate(shown) if seen.sizes.gpus[seen.current[0]] == 1)
    largest = int(np.argmax(shown[alone].sizes.gpus))
    believed = shown[alone].rate[0, largest] / shown[alone].rate[0, 1]
    assert believed > true[alone].rate[0, largest] / true[alone].rate[0, 1]


def test_models_cost_a_scheduler_little() -> None:
    workloads = {"a": shipped_workloads(0.5)["workload-3"][:15]}
    true, fitted = (
        compare(workloads, ["pollux"], Setting(fitted=fitted))[0].result.mean_seconds
        for fitted in (False, True)
    )
    assert true != fitted
    assert fitted == pytest.approx(true, rel=0.1)
