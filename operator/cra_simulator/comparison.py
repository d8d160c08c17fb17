"""Schedulers side by side: the same workloads, cluster, interval and restart for all.

Whoever resizes jobs runs at the best batch size of each size, under the growth limit. Whoever takes the
sizes or batches that the jobs' owners chose runs with those, on measured profiles, placed as in the Pollux
artifact, without a limit: so they are as good as they are published, and Tiresias and Optimus come out as
their figures were shipped. On several types of GPU, or without the owners' batches, all run at the best batch
size.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import product
from pathlib import Path

from cra_operator.controller.policy import Floats, Policy
from cra_simulator import data
from cra_simulator.blur import Blurred
from cra_simulator.cluster import POLLUX_CLUSTER, Cluster
from cra_simulator.errors import DataError
from cra_simulator.fairness import finish_time_fairness
from cra_simulator.fitted import Fitted
from cra_simulator.mixed import best_tables
from cra_simulator.profiles import tuned_tables
from cra_simulator.rates import RateTables, at_sizes, read_rate_tables
from cra_simulator.result import Result
from cra_simulator.schedulers import scheduler_of
from cra_simulator.simulation import Rules, simulate
from cra_simulator.workload import TraceJob

Workloads = Mapping[str, Sequence[TraceJob]]
"""Workloads by name."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What is the same for all.

    Attributes:
        cluster: Where jobs run.
        profiles: A folder of profiles or a file of rate tables; None for what ships.
        interval: Seconds between decisions.
        restart: Seconds without progress after a change of GPUs.
        work_sigma: Error of the remaining work that policies see (see `Blurred`).
        rate_sigma: Error of the goodput that they see.
        seed: Of these errors.
        fitted: Whether policies see models that were fitted to measurements (see `Fitted`) instead of true
            goodput; those that take the owners' batches know their throughput in any case.
    """

    cluster: Cluster = POLLUX_CLUSTER
    profiles: Path | None = None
    interval: float = 60.0
    restart: float = 30.0
    work_sigma: float = 0.0
    rate_sigma: float = 0.0
    seed: int = 0
    fitted: bool = False


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One scheduler on one workload.

    Attributes:
        workload: Its name.
        scheduler: Likewise.
        result: What came of it.
        fairness: Finish-time fairness of each job, [J].
        cpu_seconds: What the run cost.
    """

    workload: str
    scheduler: str
    result: Result
    fairness: Floats
    cpu_seconds: float


def compare(
    workloads: Workloads, schedulers: Sequence[str], setting: Setting, *, processes: int = 1
) -> list[Outcome]:
    """Run every scheduler on every workload.

    Args:
        workloads: The workloads.
        schedulers: Names from `SCHEDULERS`.
        setting: What is the same for all.
        processes: How many run at a time.

    Returns:
        The outcomes, workload by workload, schedulers in the given order.

    Raises:
        DataError: A name, an application or a profile is not known.
        SimulationError: A scheduler gives what there is not.
    """
    narrow = [name for name in schedulers if not scheduler_of(name).mixed]
    if len(setting.cluster.pools) > 1 and narrow:
        raise DataError(f"{', '.join(narrow)} know one type of GPU, and the cluster has several")
    tasks = list(product(workloads.items(), schedulers))
    run_in = partial(_run_task, setting)
    if processes == 1:
        return [run_in(task) for task in tasks]
    with ProcessPoolExecutor(processes) as pool:
        return list(pool.map(run_in, tasks))


def _run_task(setting: Setting, task: tuple[tuple[str, Sequence[TraceJob]], str]) -> Outcome:
    (workload, jobs), scheduler = task
    return run(workload, jobs, scheduler, setting)


def run(workload: str, jobs: Sequence[TraceJob], name: str, setting: Setting) -> Outcome:
    """One scheduler on one workload; see `compare`."""
    best = best_rates(setting.profiles, setting.cluster, frozenset(job.application for job in jobs))
    policy = scheduler_of(name).make()
    started = time.process_time()
    result = play(jobs, name, policy, setting)
    cpu_seconds = time.process_time() - started
    return Outcome(
        workload=workload,
        scheduler=name,
        result=result,
        fairness=finish_time_fairness(result, best, setting.cluster),
        cpu_seconds=cpu_seconds,
    )


def play(jobs: Sequence[TraceJob], name: str, policy: Policy, setting: Setting) -> Result:
    """Run a workload under a policy, in the way of the scheduler of that name."""
    scheduler = scheduler_of(name)
    if setting.work_sigma or setting.rate_sigma:
        policy = Blurred(
            policy, work_sigma=setting.work_sigma, rate_sigma=setting.rate_sigma, seed=setting.seed
        )
    rules = Rules(interval=setting.interval, restart=setting.restart, limit_growth=not scheduler.rigid)
    profiles = setting.profiles or data.profiles()
    told = all(job.batch_size for job in jobs) and profiles.is_dir() and len(setting.cluster.pools) == 1
    if scheduler.owners_batch and told:
        rates, table_of = tuned_tables(jobs, setting.cluster.all_sizes(), profiles)
        rules = replace(rules, placement="spread", limit_growth=False)
        return simulate(jobs, rates, setting.cluster, policy, tables=table_of, rules=rules)
    if setting.fitted:
        if not profiles.is_dir():
            raise DataError(f"{profiles} has rates only; measurements are taken from a folder of profiles")
        policy = Fitted(policy, jobs, profiles, setting.cluster)
    rates = best_rates(setting.profiles, setting.cluster, frozenset(job.application for job in jobs))
    return simulate(jobs, rates, setting.cluster, policy, rules=rules)


def known_applications(profiles: Path | None) -> set[str]:
    """The applications that profiles or rate tables have; see `Setting.profiles`."""
    profiles = profiles or data.profiles()
    if profiles.is_dir():
        return {path.parent.name for path in profiles.glob("**/application.json")}
    return set(read_rate_tables(profiles).tables)


@cache
def best_rates(profiles: Path | None, cluster: Cluster, applications: frozenset[str]) -> RateTables:
    """Rates at the best batch size.

    Args:
        profiles: As in `Setting`.
        cluster: Whose sizes.
        applications: Which must be there.

    Raises:
        DataError: An application is not known, or how it does on such a cluster.
    """
    if profiles is None and cluster == POLLUX_CLUSTER:
        profiles = data.rate_tables()
    profiles = profiles or data.profiles()
    if profiles.is_dir():
        return best_tables(applications, profiles, cluster)
    rates = at_sizes(read_rate_tables(profiles), cluster.packed_sizes())
    unknown = sorted(applications - set(rates.tables))
    if unknown:
        raise DataError(f"{profiles} has no application {unknown[0]!r}; there are {', '.join(rates.tables)}")
    return rates
