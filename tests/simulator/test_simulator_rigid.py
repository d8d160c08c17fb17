"""Tiresias and Optimus on measured profiles, beside the results that the authors of Pollux ship.

Placement, batch and rates are those of the artifact here, so the mean completion time of a workload comes out
to the digit: here of two, in `make bench NAME=scheduler_validation` of all forty.
"""

from __future__ import annotations

import pytest

from cra_simulator import data
from cra_simulator.cluster import POLLUX_CLUSTER
from cra_simulator.profiles import tuned_tables
from cra_simulator.schedulers import SCHEDULERS
from cra_simulator.simulation import Rules, simulate
from cra_simulator.workload import read_workload


@pytest.mark.parametrize(
    ("scheduler", "workload"),
    [("tiresias", "workload-1"), ("tiresias", "workload-3"), ("optimus", "workload-3")],
)
def test_the_mean_is_the_shipped_one(scheduler: str, workload: str) -> None:
    path = next(path for path in data.workloads(1.0) if path.stem == workload)
    jobs = read_workload(path)
    rates, table_of = tuned_tables(jobs, POLLUX_CLUSTER.all_sizes(), data.profiles())
    rules = Rules(placement="spread", limit_growth=False)
    result = simulate(jobs, rates, POLLUX_CLUSTER, SCHEDULERS[scheduler].make(), tables=table_of, rules=rules)
    assert result.mean_seconds == pytest.approx(data.shipped_means(scheduler, 1.0)[workload], abs=0.01)
