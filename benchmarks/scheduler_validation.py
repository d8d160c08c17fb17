"""Is the simulator the one whose figures are published, and is it fast?

Own Pollux, Tiresias and Optimus on the workloads that come with the Pollux artifact, beside the mean job
completion times that its authors ship. Tiresias and Optimus run on the measured profiles with the artifact's
placement and must agree to the digit. Pollux is solved exactly on true rates, while the artifact searches
with a genetic algorithm and must fit its throughput models first, so it may be a little better, and more so
the higher the load. Five of the eight workloads of each load are shipped here; the shipped means are those of
the same five.

    make bench NAME=scheduler_validation
"""

from __future__ import annotations

import time
from importlib.metadata import version
from pathlib import Path
from statistics import fmean, median

from benchmarks.report import describe_machine, print_figures, print_table
from cra_simulator import data
from cra_simulator.cluster import POLLUX_CLUSTER
from cra_simulator.profiles import tuned_tables
from cra_simulator.rates import RateTables, read_rate_tables
from cra_simulator.result import Result
from cra_simulator.schedulers import SCHEDULERS
from cra_simulator.simulation import Rules, simulate
from cra_simulator.workload import read_workload

REGRESSION = {
    "workload-1": 1996,
    "workload-2": 3118,
    "workload-3": 2110,
    "workload-4": 2592,
    "workload-6": 2312,
}
"""Mean seconds of Pollux at 1.0x by another implementation of the same objective on the same rates."""


def run_pollux(path: Path, rates: RateTables) -> Result:
    """Pollux on the rates at the best batch size."""
    return simulate(read_workload(path), rates, POLLUX_CLUSTER, SCHEDULERS["pollux"].make())


def run_tuned(path: Path, scheduler: str) -> Result:
    """A scheduler with the batch sizes that the jobs' owners tuned, placed as the artifact places it."""
    jobs = read_workload(path)
    rates, table_of = tuned_tables(jobs, POLLUX_CLUSTER.all_sizes(), data.profiles())
    rules = Rules(placement="spread", limit_growth=False)
    return simulate(jobs, rates, POLLUX_CLUSTER, SCHEDULERS[scheduler].make(), tables=table_of, rules=rules)


def main() -> None:
    """Run all, print the comparison."""
    print(describe_machine(numpy=version("numpy"), numba=version("numba"), scipy=version("scipy")))
    rates = read_rate_tables(data.rate_tables())
    run_pollux(data.workloads(1.0)[0], rates)
    rows, figures, episodes, errors = [], {}, [], []
    for load in data.LOADS:
        for scheduler in ("pollux", "tiresias", "optimus"):
            shipped = data.shipped_means(scheduler, load)
            own = {}
            for path in data.workloads(load):
                started = time.process_time()
                result = run_pollux(path, rates) if scheduler == "pollux" else run_tuned(path, scheduler)
                own[path.stem] = result.mean_seconds
                if scheduler == "pollux" and load == 1.0:
                    episodes.append((time.process_time() - started) * 1000)
                    errors.append(abs(result.mean_seconds / REGRESSION[path.stem] - 1) * 100)
            theirs = fmean(shipped[name] for name in own)
            ratio = fmean(own.values()) / theirs
            worst = max((abs(own[name] / shipped[name] - 1), name) for name in own)
            figures[f"{scheduler}_over_shipped_{load}x"] = ratio
            rows.append(
                [f"{load}x", scheduler, f"{fmean(own.values()):.0f}", f"{theirs:.0f}", f"{ratio - 1:+.2%}",
                 f"{worst[0]:.2%} ({worst[1]})"]
            )  # fmt: skip
    print_table(["load", "scheduler", "own mean, s", "shipped, s", "difference", "worst workload"], rows)
    figures |= {"pollux_regression_error_max_percent": max(errors), "episode_ms": median(episodes)}
    print_figures("scheduler_validation", figures)


if __name__ == "__main__":
    main()
