"""Is the simulator the one whose figures are published, and is it fast?

Own Pollux, Tiresias and Optimus on the workloads that come with the Pollux artifact, beside the mean job
completion times that its authors ship. Tiresias and Optimus run on the measured profiles with the artifact's
placement and must agree to the digit. Pollux is solved exactly, while the artifact searches with a genetic
algorithm, so it may be a little better, and more so the higher the load; once on true goodput and once, as in
the artifact, on models fitted to what was measured so far. Five of the eight workloads of each load are
shipped here; the shipped means are those of the same five.

    make bench NAME=scheduler_validation
"""

from __future__ import annotations

from importlib.metadata import version
from statistics import fmean, median

from benchmarks.report import describe_machine, print_figures, print_table
from cra_simulator import data
from cra_simulator.comparison import Setting, compare
from cra_simulator.shipped import shipped_workloads

REGRESSION = {
    "workload-1": 1996,
    "workload-2": 3118,
    "workload-3": 2110,
    "workload-4": 2592,
    "workload-6": 2312,
}
"""Mean seconds of Pollux at 1.0x by another implementation of the same objective on the same rates."""
CASES = (
    ("pollux", "pollux", Setting()),
    ("pollux, fitted", "pollux", Setting(fitted=True)),
    ("tiresias", "tiresias", Setting()),
    ("optimus", "optimus", Setting()),
)
"""Title, scheduler and setting."""


def main() -> None:
    """Run all, print the comparison."""
    print(describe_machine(numpy=version("numpy"), numba=version("numba"), scipy=version("scipy")))
    rows, figures, episodes, errors = [], {}, [], []
    for load in data.LOADS:
        workloads = shipped_workloads(load)
        for title, scheduler, setting in CASES:
            shipped = data.shipped_means(scheduler, load)
            outcomes = compare(workloads, [scheduler], setting)
            own = {outcome.workload: outcome.result.mean_seconds for outcome in outcomes}
            if title == "pollux" and load == 1.0:
                episodes = [outcome.cpu_seconds * 1000 for outcome in outcomes]
                errors = [abs(own[name] / mean - 1) * 100 for name, mean in REGRESSION.items()]
            theirs = fmean(shipped[name] for name in own)
            ratio = fmean(own.values()) / theirs
            worst = max((abs(own[name] / shipped[name] - 1), name) for name in own)
            figures[f"{title.replace(', ', '_')}_over_shipped_{load}x"] = ratio
            rows.append(
                [f"{load}x", title, f"{fmean(own.values()):.0f}", f"{theirs:.0f}", f"{ratio - 1:+.2%}",
                 f"{worst[0]:.2%} ({worst[1]})"]
            )  # fmt: skip
    print_table(["load", "scheduler", "own mean, s", "shipped, s", "difference", "worst workload"], rows)
    figures |= {"pollux_regression_error_max_percent": max(errors), "episode_ms": median(episodes)}
    print_figures("scheduler_validation", figures)


if __name__ == "__main__":
    main()
