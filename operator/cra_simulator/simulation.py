"""A workload on a cluster under a policy: the loop.

Every interval (60 s) all jobs advance, then the policy looks at those that were submitted and are not done,
and jobs whose GPUs change lose the seconds of a restart (30 s). What a job may be given is limited to twice
the most GPUs it has run on, as its scaling is unknown beyond (Pollux, OSDI'21, section 4.1). All that is the
way of the simulators of Pollux and Sia, so that their published figures can be compared with.

State is a few arrays with one row per active job, in order of submission. The observation that a policy gets
is a set of views of them, and one compiled call advances all rows: a tick costs microseconds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from cra_operator.controller.policy import ClusterObservation, Decision, Policy, Sizes
from cra_simulator.advance import advance
from cra_simulator.book import Book
from cra_simulator.cluster import Cluster
from cra_simulator.errors import SimulationError
from cra_simulator.placement import pack, spread
from cra_simulator.rates import RateTables, column_of
from cra_simulator.result import JobResult, Result
from cra_simulator.rows import Rows, Store
from cra_simulator.workload import TraceJob


@dataclass(frozen=True, kw_only=True)
class Rules:
    """The laws of the simulated world.

    Attributes:
        interval: Seconds between decisions.
        restart: Seconds without progress after a change of GPUs.
        restart_of: The same for single applications.
        placement: `pack` for sizes that pack, `spread` for any size (see `cra_simulator.placement`).
        limit_growth: Whether a job is limited to twice the most GPUs it has run on.
        restart_sigma: How much restarts differ: the standard deviation of the logarithm; their mean stays.
        failures_per_gpu_day: How often a running job fails, for each of its GPUs.
        failure_loses: Seconds of progress that a failure costs on top of a restart; never more than the
            epoch's.
        seed: Of what is left to chance.
        horizon: Seconds after which unfinished jobs are an error.
    """

    interval: float = 60.0
    restart: float = 30.0
    restart_of: Mapping[str, float] | None = None
    placement: Literal["pack", "spread"] = "pack"
    limit_growth: bool = True
    restart_sigma: float = 0.0
    failures_per_gpu_day: float = 0.0
    failure_loses: float = 0.0
    seed: int = 0
    horizon: float = 1e8


DEFAULT_RULES = Rules()


def simulate(
    jobs: Sequence[TraceJob],
    rates: RateTables,
    cluster: Cluster,
    policy: Policy,
    *,
    tables: Mapping[str, str] | None = None,
    rules: Rules = DEFAULT_RULES,
) -> Result:
    """Run a workload to its end.

    Args:
        jobs: The submissions, in order.
        rates: How fast each application trains.
        cluster: Where.
        policy: Who gets what; a fresh instance.
        tables: The rate table of each job by its name; otherwise that of its application.
        rules: Intervals and costs.

    Raises:
        SimulationError: The policy gives more than there is, or jobs never end.
    """
    world = _World(jobs, rates, cluster, tables or {}, rules)
    while world.has_more():
        world.tick()
        if len(world):
            world.apply(policy.decide(world.observe()))
    return world.result()


class _World:
    def __init__(
        self,
        jobs: Sequence[TraceJob],
        rates: RateTables,
        cluster: Cluster,
        tables: Mapping[str, str],
        rules: Rules,
    ) -> None:
        self._jobs = jobs
        self._rules = rules
        self._sizes = rates.sizes
        self._book = Book(rates)
        self._table_of = [self._book.index(tables.get(job.name, job.application), job.name) for job in jobs]
        least = [int(rates.sizes.gpus[np.argmax(table.rate[0] > 0)]) for table in self._book.tables]
        self._least = [least[table] for table in self._table_of]
        self._capacity, self._node_gpus = cluster.capacity, cluster.node_gpus
        self._node_kind = np.repeat(np.arange(len(cluster.pools)), [pool.nodes for pool in cluster.pools])
        self._gpus_on = self._node_gpus[self._node_kind]
        self._store = Store(len(jobs), len(self._sizes), len(self._gpus_on))
        self._active = self._store.rows.first(0)
        self._columns: dict[int, int] = {}
        self._random = np.random.default_rng(rules.seed)
        self._order = np.arange(len(jobs))
        self._next = 0
        self._now = 0.0
        self._done: list[JobResult | None] = [None] * len(jobs)
        _check_sizes(self._sizes, cluster, rules)

    def __len__(self) -> int:
        return len(self._active.index)

    def has_more(self) -> bool:
        return self._next < len(self._jobs) or len(self) > 0

    def tick(self) -> None:
        """All jobs advance by one interval; those that are done leave and those submitted meanwhile come."""
        interval = self._rules.interval
        if not len(self):
            # Nothing happens until the tick before the next submission.
            waits = math.ceil(self._jobs[self._next].submitted / interval) - 1
            self._now = max(self._now, waits * interval)
        rows = self._active
        ended, turned = advance(
            self._now, interval, rows.table, rows.running, rows.gpus, rows.epoch, rows.progress,
            rows.pause_left, rows.attained, rows.limit, self._book.ends, self._book.epochs,
            self._book.true_rate, rows.most, rows.finished, rows.turned,
        )  # fmt: skip
        self._now += interval
        if self._now > self._rules.horizon:
            raise SimulationError(f"{len(self)} jobs are not done after {self._rules.horizon:.0f} s")
        if ended:
            self._leave()
        if self._rules.failures_per_gpu_day:
            self._fail()
        if turned:
            rows = self._active
            for j in rows.turned.nonzero()[0]:
                self._turn(rows, int(j))
        while self._next < len(self._jobs) and self._jobs[self._next].submitted <= self._now:
            self._submit(self._next)
            self._next += 1
        rows = self._active
        np.subtract(self._now, rows.submitted, out=rows.age)
        rows.remaining[:] = self._book.work[rows.table]
        rows.remaining -= rows.progress

    def _submit(self, index: int) -> None:
        job, count = self._jobs[index], len(self)
        rows = self._active = self._store.rows.first(count + 1)
        table = self._book.tables[self._table_of[index]]
        rows.index[count] = index
        rows.table[count] = self._table_of[index]
        rows.running[count] = -1
        rows.submitted[count] = job.submitted
        rows.most[count] = table.max_gpus
        rows.limit[count] = self._least[index] if self._rules.limit_growth else table.max_gpus
        own = (self._rules.restart_of or {}).get(job.application)
        rows.restart_seconds[count] = self._rules.restart if own is None else own
        rows.request[count] = self._request(min(job.gpus, table.max_gpus))
        rows.priority[count] = job.priority
        self._turn(rows, count)

    def _request(self, gpus: int) -> int:
        if gpus not in self._columns:
            self._columns[gpus] = column_of(self._sizes, gpus) if gpus else 0
        return self._columns[gpus]

    def _turn(self, rows: Rows, j: int) -> None:
        """What a new epoch changes."""
        table, epoch = self._book.tables[rows.table[j]], int(rows.epoch[j])
        rows.rate[j] = table.rate[epoch]
        rows.throughput[j] = table.rate[epoch] if table.throughput is None else table.throughput
        work = table.progress[-1] - rows.progress[j]
        rows.steps_left[j] = work if table.steps_left is None else table.steps_left[epoch]

    def _leave(self) -> None:
        rows = self._active
        for j in np.flatnonzero(rows.finished > 0):
            job = self._jobs[rows.index[j]]
            self._done[rows.index[j]] = JobResult(
                name=job.name,
                application=job.application,
                submitted=job.submitted,
                finished=float(rows.finished[j]),
                restarts=int(rows.restarts[j]),
                gpu_seconds=float(rows.attained[j]),
            )
        stay = np.flatnonzero(rows.finished == 0)
        self._store.keep(stay, len(self))
        self._active = self._store.rows.first(len(stay))

    def observe(self) -> ClusterObservation:
        rows = self._active
        return ClusterObservation(
            time=self._now,
            capacity=self._capacity,
            node_gpus=self._node_gpus,
            sizes=self._sizes,
            ids=rows.index,
            rate=rows.rate,
            throughput=rows.throughput,
            remaining=rows.remaining,
            steps_left=rows.steps_left,
            age=rows.age,
            attained=rows.attained,
            restarts=rows.restarts,
            restart_seconds=rows.restart_seconds,
            pause_left=rows.pause_left,
            current=rows.current,
            limit=rows.limit,
            request=rows.request,
            priority=rows.priority,
        )

    def apply(self, decision: Decision) -> None:
        """Give jobs the sizes that were decided. Only what changes costs anything."""
        rows, choice = self._active, decision.choice
        if len(choice) != len(self):
            raise SimulationError(f"the policy decided for {len(choice)} jobs of {len(self)}")
        changed = (choice != rows.current).astype(np.int64)
        if not changed.any():
            return
        gpus, kind = self._sizes.gpus[choice], self._sizes.kind[choice]
        for j in changed.nonzero()[0]:
            if gpus[j] and not rows.rate[j, choice[j]] > 0:
                job = self._jobs[rows.index[j]]
                raise SimulationError(f"job {job.name} cannot run on the {gpus[j]} GPUs that it is given")
        before = rows.held.copy()
        if self._rules.placement == "pack":
            placed = pack(rows.held, gpus, kind, changed, self._gpus_on, self._node_kind)
        else:
            order = self._order[: len(self)] if decision.order is None else decision.order
            placed = spread(rows.held, gpus, kind, changed, self._gpus_on, self._node_kind, order)
        if not placed:
            raise SimulationError("the policy gave more GPUs than there are")
        rows.current[:] = choice
        rows.gpus[:] = gpus
        for j in changed.nonzero()[0]:
            if gpus[j] == 0:
                rows.running[j] = -1
            elif (rows.held[j] != before[j]).any():
                rows.running[j] = self._row(rows, int(j))
                rows.pause_left[j] = self._restart(rows, int(j))
                rows.restarts[j] += rows.starts[j] > 0
                rows.starts[j] += 1

    def _restart(self, rows: Rows, j: int) -> float:
        """Seconds that a restart takes this time."""
        mean, sigma = float(rows.restart_seconds[j]), self._rules.restart_sigma
        return mean * float(self._random.lognormal(-sigma * sigma / 2, sigma)) if sigma else mean

    def _fail(self) -> None:
        """Some running jobs fall back to their last checkpoint and start again on the GPUs that they have."""
        rows = self._active
        per_gpu = self._rules.failures_per_gpu_day * self._rules.interval / 86_400
        chance = -np.expm1(-per_gpu * rows.gpus)
        for j in ((self._random.random(len(self)) < chance) & (rows.running >= 0)).nonzero()[0]:
            epoch, table = rows.epoch[j], rows.table[j]
            lost = self._book.true_rate[rows.running[j], epoch] * self._rules.failure_loses
            began = self._book.ends[table, epoch - 1] if epoch else 0.0
            rows.progress[j] = max(rows.progress[j] - lost, began)
            rows.pause_left[j] = self._restart(rows, int(j))

    def _row(self, rows: Rows, j: int) -> int:
        table = int(rows.table[j])
        if self._book.tables[table].placed is None:
            return self._book.packed_row(table, int(rows.current[j]))
        # In the order in which `spread` gives nodes away.
        held = np.sort(rows.held[j])[::-1]
        return self._book.placed_row(table, tuple(held[held > 0].tolist()))

    def result(self) -> Result:
        return Result(jobs=tuple(job for job in self._done if job is not None))


def _check_sizes(sizes: Sizes, cluster: Cluster, rules: Rules) -> None:
    if rules.placement == "spread":
        return
    per = cluster.node_gpus[sizes.kind]
    whole = sizes.gpus % per == 0
    part = (sizes.gpus < per) & (per % np.maximum(sizes.gpus, 1) == 0)
    if not (whole | part).all():
        odd = sizes.gpus[~(whole | part)][0]
        raise SimulationError(f"a size of {odd} GPUs does not pack into nodes of {per[~(whole | part)][0]}")
