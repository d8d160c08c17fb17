"""What is trained on: the training workloads, mixed to any load, in worlds that differ.

A training world is drawn from a seed: a load between 0.25 and 5 times that of the shipped 1.0, restarts from
those of live resizing (1 s) to those of large models (250 s), remaining work and goodput misjudged, some jobs
without a declared end. Most of them are as the comparison has it: 30 s, nothing misjudged. Other loads are
made from the workloads by thinning and by laying several over each other; nothing else is made up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from cra_operator.controller.policies.goodput import base_rate
from cra_operator.controller.policies.tokens import speed_profile
from cra_operator.controller.policy import Floats
from cra_simulator import data
from cra_simulator.book import Book
from cra_simulator.cluster import POLLUX_CLUSTER, Cluster
from cra_simulator.learning.episode import World
from cra_simulator.rates import RateTables, read_rate_tables
from cra_simulator.workload import TraceJob, read_workload

LOADS = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0)
CHANCES = (0.03, 0.17, 0.05, 0.3, 0.2, 0.18, 0.04, 0.03)
"""How often each load is drawn."""
LAYERS: dict[float, tuple[tuple[float, ...], ...]] = {
    0.25: ((0.5,), (1.0,)),
    0.5: ((0.5,), (1.0,)),
    0.75: ((1.0,), (0.5, 0.5)),
    1.0: ((1.0,), (1.0,), (0.5, 0.5), (2.0,)),
    1.5: ((2.0,), (1.0, 1.0), (0.5, 1.0)),
    2.0: ((2.0,), (1.0, 1.0)),
    3.0: ((1.0, 2.0), (1.0, 1.0, 1.0)),
    5.0: ((1.0, 2.0, 2.0), (1.0, 1.0, 1.0, 2.0)),
}
"""Ways to make a load: the workloads that are laid over each other before they are thinned."""
WINDOW = {3.0: 5 * 3600.0, 5.0: 3 * 3600.0}
"""Only so many seconds are taken of the largest."""
HELD_BACK = {0.5: 2, 1.0: 8, 2.0: 3}
"""How many of the training workloads of each load validate."""
PRACTISED = {0.5: 6, 1.0: 9, 1.5: 6, 2.0: 7}
"""How many worlds of each load there are to practise in,"""
VALIDATED = {0.5: 8, 1.0: 8, 1.5: 6, 2.0: 6, 5.0: 2}
"""and to validate in."""
MISJUDGED = 6
"""Ways in which rates are misjudged."""


@dataclass(frozen=True, kw_only=True)
class Disturbance:
    """How a world differs from the plain one.

    Attributes:
        restart: Seconds of a restart; None for 30.
        work_sigma: Standard deviation of the logarithm of the error in remaining work.
        rate_sigma: That of goodput.
        endless: Part of the jobs that declare no end.
    """

    restart: float = 30.0
    work_sigma: float = 0.0
    rate_sigma: float = 0.0
    endless: float = 0.0


PLAIN = Disturbance()


class Worlds:
    """Makes worlds from workloads for one cluster and one set of rate tables.

    Args:
        rates: How fast applications train.
        cluster: Where.
        interval: Seconds of a tick.
    """

    def __init__(self, rates: RateTables, cluster: Cluster, *, interval: float = 60.0) -> None:
        self._book = Book(rates)
        self._sizes = rates.sizes
        self._cluster = cluster
        self._interval = interval
        tables, sizes = len(self._book.tables), len(rates.sizes)
        longest = self._book.ends.shape[1]
        draws = np.random.default_rng(0)
        noise = draws.normal(size=(tables, MISJUDGED, sizes))
        self._seen: dict[float, tuple[Floats, Floats, Floats]] = {}
        self._noise = noise
        self._longest = longest

    def _rates_seen(self, sigma: float) -> tuple[Floats, Floats, Floats]:
        """What is seen of each table, in `MISJUDGED` ways unless `sigma` is 0."""
        if sigma not in self._seen:
            ways = MISJUDGED if sigma else 1
            count = len(self._book.tables) * ways
            rate = np.zeros((count, self._longest, len(self._sizes)))
            profile, base = np.zeros((count, self._longest, 4)), np.zeros((count, self._longest))
            for i, table in enumerate(self._book.tables):
                for way in range(ways):
                    row, epochs = i * ways + way, len(table.rate)
                    seen = table.rate * np.exp(sigma * self._noise[i, way])
                    rate[row, :epochs] = seen
                    profile[row, :epochs] = speed_profile(seen, self._sizes.gpus)
                    base[row, :epochs] = base_rate(seen, self._sizes.gpus)[0]
            self._seen[sigma] = rate, profile, base
        return self._seen[sigma]

    def world(self, jobs: Sequence[TraceJob], how: Disturbance = PLAIN, *, seed: int = 0) -> World:
        """The world in which a workload runs.

        Args:
            jobs: In order of submission.
            how: What is different.
            seed: Of what is misjudged.
        """
        book, draws, count = self._book, np.random.default_rng(seed), len(jobs)
        table = np.array([book.index(job.application, job.name) for job in jobs])
        rate, profile, base = self._rates_seen(how.rate_sigma)
        ways = len(rate) // len(book.tables)
        work = draws.lognormal(0.0, how.work_sigma, count)
        pools = self._cluster.pools
        return World(
            interval=self._interval,
            submitted=np.array([job.submitted for job in jobs], dtype=float),
            table=table,
            most=np.array([book.tables[i].max_gpus for i in table]),
            restart=np.full(count, how.restart),
            blur_work=np.where(draws.random(count) < how.endless, np.nan, work),
            seen=table * ways + draws.integers(ways, size=count),
            seen_rate=rate,
            seen_profile=profile,
            seen_base=base,
            ends=book.ends,
            epochs=book.epochs,
            work=book.work.astype(float),
            true_rate=book.true_rate,
            gpus=self._sizes.gpus,
            kind=self._sizes.kind,
            node_gpus=np.repeat(self._cluster.node_gpus, [pool.nodes for pool in pools]),
            node_kind=np.repeat(np.arange(len(pools)), [pool.nodes for pool in pools]),
            capacity=self._cluster.capacity,
        )


class Curriculum:
    """The training worlds, by seed, and those that validate.

    Args:
        worlds: Makes them.
    """

    def __init__(self, worlds: Worlds) -> None:
        self._worlds = worlds
        self._jobs = {
            load: [read_workload(path) for path in data.training_workloads(load)] for load in HELD_BACK
        }

    def draw(self, seed: int) -> World:
        """A training world."""
        draws = np.random.default_rng(seed)
        load = float(draws.choice(LOADS, p=CHANCES))
        ways = LAYERS[load]
        jobs = self._mix(ways[int(draws.integers(len(ways)))], load, draws)
        how = PLAIN
        if draws.random() < 0.4:
            how = Disturbance(
                restart=float(draws.choice([1.0, 10.0, 30.0, 60.0, 120.0, 250.0])),
                work_sigma=float(draws.choice([0.0, 0.0, 0.25, 0.5, 1.0])),
                rate_sigma=float(draws.choice([0.0, 0.1, 0.2])),
                endless=float(draws.choice([0.0, 0.0, 0.1])),
            )
        return self._worlds.world(jobs, how, seed=seed)

    def _mix(
        self, layers: Sequence[float], load: float, draws: np.random.Generator, *, held_back: bool = False
    ) -> list[TraceJob]:
        """A workload of a load from different ones, of those that train or of those that are held back."""
        drawn: list[Sequence[TraceJob]] = []
        for layer in sorted(set(layers)):
            among = slice(0, HELD_BACK[layer]) if held_back else slice(HELD_BACK[layer], None)
            found = self._jobs[layer][among]
            drawn += [found[i] for i in draws.permutation(len(found))[: layers.count(layer)]]
        return lay_over(drawn, load, WINDOW.get(load, np.inf), draws)

    @cached_property
    def validation(self) -> dict[float, list[World]]:
        """Worlds that no learner trains on, by load; plain."""
        return self._plain(VALIDATED, held_back=True)

    @cached_property
    def practice(self) -> list[World]:
        """Plain worlds of all usual loads."""
        return [world for found in self._plain(PRACTISED, held_back=False).values() for world in found]

    def _plain(self, counts: Mapping[float, int], *, held_back: bool) -> dict[float, list[World]]:
        found: dict[float, list[World]] = {}
        for load, count in counts.items():
            draws, ways = np.random.default_rng(int(load * 10)), LAYERS[load]
            mixed = [self._mix(ways[i % len(ways)], load, draws, held_back=held_back) for i in range(count)]
            found[load] = [self._worlds.world(jobs) for jobs in mixed]
        return found


def lay_over(
    layers: Sequence[Sequence[TraceJob]], load: float, window: float, draws: np.random.Generator
) -> list[TraceJob]:
    """One workload of a load from several: jobs are kept by chance, so that so many are left as it takes.

    Args:
        layers: The workloads; each of 160 jobs for a load of 1.0.
        load: The load.
        window: Seconds after which nothing more is submitted.
        draws: What is left to chance.
    """
    jobs = sorted((job for layer in layers for job in layer), key=lambda job: job.submitted)
    kept = np.sort(draws.permutation(len(jobs))[: round(160 * load)])
    return [jobs[i] for i in kept if jobs[i].submitted <= window]


def pollux_curriculum() -> Curriculum:
    """The training worlds of the cluster of the Pollux evaluation."""
    return Curriculum(Worlds(read_rate_tables(data.rate_tables()), POLLUX_CLUSTER))
