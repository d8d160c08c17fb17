"""Own Pollux beside the figures that its authors ship, and beside an independent re-implementation.

The shipped figures are mean job completion times by workload from the artifact of the paper
(`results-jobload/` of petuum/adaptdl, branch osdi21-artifact): a genetic search that must fit throughput
models as it goes. The exact solution on true rates should be a little better, and never by much.
All workloads of all loads are in `make bench NAME=scheduler_validation`.
"""

from __future__ import annotations

import pytest

from cra_simulator import data
from cra_simulator.cluster import POLLUX_CLUSTER
from cra_simulator.rates import read_rate_tables
from cra_simulator.schedulers.pollux import Pollux
from cra_simulator.simulation import simulate
from cra_simulator.workload import read_workload

REGRESSION = (1996, 3118, 2110, 2592, 2312)
"""Mean seconds at 1.0x of another implementation: the same objective solved exactly on the same rates."""


def run(load: float, workload: int) -> tuple[float, float]:
    """Own and shipped mean of one of the workloads."""
    rates = read_rate_tables(data.rate_tables())
    path = data.workloads(load)[workload]
    result = simulate(read_workload(path), rates, POLLUX_CLUSTER, Pollux())
    return result.mean_seconds, data.shipped_means("pollux", load)[path.stem]


@pytest.mark.parametrize(("load", "workload", "bar"), [(0.5, 0, 0.03), (1.0, 4, 0.06), (2.0, 1, 0.09)])
def test_a_workload_is_near_what_is_shipped(load: float, workload: int, bar: float) -> None:
    own, shipped = run(load, workload)
    assert own == pytest.approx(shipped, rel=bar)


@pytest.mark.parametrize("workload", [0, 1, 2, 3, 4])
def test_each_workload_is_within_a_percent_of_another_implementation(workload: int) -> None:
    assert run(1.0, workload)[0] == pytest.approx(REGRESSION[workload], rel=0.01)
