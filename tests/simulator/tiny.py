"""A world small enough to learn in within a second: a few jobs, none like another, on eight GPUs."""

from __future__ import annotations

from functools import cached_property

import numpy as np

from cra_simulator.learning.episode import World
from cra_simulator.learning.worlds import Disturbance, Worlds
from cra_simulator.rates import RateTable, RateTables
from cra_simulator.workload import TraceJob
from tests.simulator.small import CLUSTER, SIZES, rates

JOBS = 12


def _table(work: float, power: float) -> RateTable:
    rate = SIZES.gpus.astype(float) ** power
    rate[0] = 0.0
    return RateTable(progress=np.array([work / 2, work]), rate=np.stack([rate, rate]), max_gpus=8)


def _tables() -> RateTables:
    """Short ones that scale badly, and long ones that scale well."""
    found = {}
    for i in range(JOBS):
        work, power = (4_000.0 + 900.0 * i, 0.9) if i % 3 == 0 else (500.0 + 70.0 * i, 0.5)
        found[f"app-{i}"] = _table(work, power)
    return rates(**found)


RATES = _tables()
WORLDS = Worlds(RATES, CLUSTER)


def jobs(seed: int) -> tuple[TraceJob, ...]:
    """One of each application, within half an hour, in any order."""
    draws = np.random.default_rng(seed)
    times, order = np.sort(draws.integers(0, 1800, JOBS)), draws.permutation(JOBS)
    return tuple(
        TraceJob(name=f"job-{i}", submitted=float(time), application=f"app-{app}")
        for i, (time, app) in enumerate(zip(times, order, strict=True))
    )


class Tiny:
    """Training worlds by seed, two in turn, and the same two to validate on; restarts are dear."""

    def draw(self, seed: int) -> World:
        """A world."""
        return self.validation[1.0][seed % 2]

    @property
    def practice(self) -> list[World]:
        """The same."""
        return self.validation[1.0]

    @cached_property
    def validation(self) -> dict[float, list[World]]:
        """All worlds."""
        return {1.0: [WORLDS.world(jobs(seed), Disturbance(restart=90.0)) for seed in range(2)]}
