"""Rates made from profiles, and clusters of several types of GPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cra_simulator import data
from cra_simulator.cluster import POLLUX_CLUSTER, Cluster, NodePool
from cra_simulator.mixed import MIXED_CLUSTER, best_tables
from cra_simulator.profiles import Profile
from cra_simulator.rates import RateTable, RateTables, read_rate_tables
from cra_simulator.schedulers.sia import Sia
from cra_simulator.simulation import simulate
from cra_simulator.workload import read_workload
from tests.simulator.small import Script, jobs


def test_rates_from_profiles_are_those_that_ship() -> None:
    """Two implementations of the choice of batch size, which differ in how they round it."""
    shipped = read_rate_tables(data.rate_tables())
    own = best_tables(["cifar10", "bert"], data.profiles(), POLLUX_CLUSTER)
    column = [int(np.flatnonzero(own.sizes.gpus == gpus)[0]) for gpus in shipped.sizes.gpus]
    for name in own.tables:
        table = shipped.tables[name]
        assert own.tables[name].rate[:, column] == pytest.approx(table.rate, rel=0.015), name
        assert own.tables[name].progress == pytest.approx(table.progress, rel=1e-6)
        assert own.tables[name].max_gpus == table.max_gpus


def test_faster_gpus_gain_less_where_they_wait_for_each_other() -> None:
    profile = Profile(data.profiles() / "cifar10")
    alone, together = (
        profile.at(shape, 512, speed=2.0)[1] / profile.at(shape, 512)[1] for shape in ((1,), (4, 4))
    )
    assert 1 < together < alone <= 2


def test_nodes_that_were_not_profiled_are_refused() -> None:
    cluster = Cluster((NodePool(kind="t4", nodes=1, gpus=8),))
    with pytest.raises(ValueError, match="nodes of 4 GPUs"):
        best_tables(["bert"], data.profiles(), cluster)


def test_a_move_to_another_type_is_a_restart_and_goes_at_its_rate() -> None:
    cluster = Cluster((NodePool(kind="slow", nodes=1, gpus=1), NodePool(kind="fast", nodes=1, gpus=2)))
    sizes = cluster.packed_sizes()
    assert sizes.kind.tolist() == [0, 0, 1, 1]
    table = RateTable(progress=np.array([100.0]), rate=np.array([[0, 1.0, 4.0, 8.0]]), max_gpus=2)
    rates = RateTables(sizes=sizes, tables={"app": table})
    done = simulate(jobs(0), rates, cluster, Script([1], [2])).jobs[0]
    # 30 steps on the slow GPU until 120, then 70 at 8 a second on the two fast ones.
    assert (done.finished, done.restarts) == (120 + 30 + 9, 1)


@pytest.mark.parametrize("path", data.workloads(0.5)[:1], ids=lambda path: path.stem)
def test_sia_runs_a_workload_on_three_types(path: Path) -> None:
    submitted = read_workload(path)[:15]
    tables = best_tables({job.application for job in submitted}, data.profiles(), MIXED_CLUSTER)
    mixed = simulate(submitted, tables, MIXED_CLUSTER, Sia())
    slow = Cluster(MIXED_CLUSTER.pools[:1])
    alone = simulate(submitted, best_tables(tables.tables, data.profiles(), slow), slow, Sia())
    assert len(mixed.jobs) == len(submitted)
    assert mixed.mean_seconds < 0.5 * alone.mean_seconds
