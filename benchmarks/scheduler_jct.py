"""Do the learned policies finish jobs sooner than the published schedulers?

Every scheduler on the same workloads, cluster, interval (60 s), restart (30 s) and growth limit, as
`cra-sim compare` runs them: by load, far beyond what the cluster can serve, with remaining work that is wrong
by a factor of e, on fitted models instead of true goodput, with the pause of live resizing, and on three
types of GPU. None of these workloads was trained or tuned on. Rows marked r use the remaining work that jobs
declare, which Pollux and Sia do not; rows marked L were trained and stand beside the rule without training,
its best preset and AFS.

    make bench NAME=scheduler_jct
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version

from benchmarks.report import describe_machine, print_figures
from cra_simulator import data
from cra_simulator.cli.compare import CONTROLS, table
from cra_simulator.comparison import Outcome, Setting, compare
from cra_simulator.mixed import MIXED_CLUSTER
from cra_simulator.schedulers import SCHEDULERS
from cra_simulator.shipped import OVERLOAD, shipped_workloads
from cra_simulator.summary import ratio, summarise

OURS = "attention"
RULES = ("pollux", *CONTROLS, OURS)
"""What stands beside ours everywhere."""
PUBLISHED = ("fifo", "srtf", "tiresias", "optimus", "gavel", "sia", *RULES)
"""What runs at every load; at 1.0 all do."""
WIDE = ("fifo", "srtf", "gavel", "sia", "goodput", OURS)
"""What runs on several types of GPU."""
LIVE_PAUSE = 1.0
"""Seconds without progress when a job is resized while it trains; see `benchmarks/resize_pause.py`."""
ERROR = 1.0
STANDARD = Setting()
MIXED = Setting(cluster=MIXED_CLUSTER)

Outcomes = Mapping[str, Sequence[Outcome]]


def outcomes_of(title: str, load: float, names: Sequence[str], setting: Setting, baseline: str) -> Outcomes:
    """Run, print the table, and sort the outcomes by scheduler."""
    workloads = shipped_workloads(load)
    if load == OVERLOAD:
        # Each of them takes as long as all of another load.
        workloads = dict(list(workloads.items())[:2])
    found = compare(workloads, names, setting, processes=os.cpu_count() or 1)
    print(f"\n{title}: {len(workloads)} workloads, {sum(map(len, workloads.values()))} jobs")
    print(table(found, names, baseline), flush=True)
    return {name: [outcome for outcome in found if outcome.scheduler == name] for name in names}


def main() -> None:
    """Run all, print the tables."""
    print(describe_machine(numpy=version("numpy"), numba=version("numba"), scipy=version("scipy")))
    figures: dict[str, float] = {}
    tails, pollux = [], {}
    for load in data.LOADS:
        names = list(SCHEDULERS if load == 1.0 else PUBLISHED)
        of = outcomes_of(f"load {load}x", load, names, STANDARD, "pollux")
        figures[f"jct_over_pollux_{load}x"] = ratio(of[OURS], of["pollux"]).value
        tails.append(summarise(of[OURS]).p99 / summarise(of["pollux"]).p99)
        pollux[load] = of["pollux"]
        if load == 1.0:
            figures["makespan_over_pollux_1.0x"] = (
                summarise(of[OURS]).makespan / summarise(of["pollux"]).makespan
            )
            figures["learned_over_preset_1.0x"] = ratio(of[OURS], of["goodput"]).value
            figures |= {
                f"{name}_over_{other}_1.0x": ratio(of[name], of[other]).value
                for name, scheduler in SCHEDULERS.items()
                if scheduler.learned
                for other in ("fifo", "tiresias", "pollux")
            }
    figures["p99_over_pollux_max"] = max(tails)
    of = outcomes_of(f"load {OVERLOAD:g}x", OVERLOAD, RULES, STANDARD, "pollux")
    figures["jct_over_pollux_5x"] = ratio(of[OURS], of["pollux"]).value
    wrong = replace(STANDARD, work_sigma=ERROR)
    of = outcomes_of(f"load 1.0x, remaining work wrong (sigma {ERROR:g})", 1.0, RULES, wrong, "pollux")
    figures["jct_over_pollux_error_1.0x"] = ratio(of[OURS], of["pollux"]).value
    seen = replace(STANDARD, fitted=True)
    names = ["pollux", "goodput", OURS]
    of = outcomes_of("load 1.0x, on models fitted to what was measured", 1.0, names, seen, "pollux")
    figures["jct_over_pollux_fitted_1.0x"] = ratio(of[OURS], of["pollux"]).value
    live = replace(STANDARD, restart=LIVE_PAUSE)
    of = outcomes_of(f"load 1.0x, a pause of {LIVE_PAUSE:g} s", 1.0, RULES, live, "pollux")
    figures["live_over_pollux_30s_1.0x"] = ratio(of[OURS], pollux[1.0]).value
    for name, load in (("normal", 1.0), ("high", 2.0)):
        of = outcomes_of(f"three types of GPU, load {load}x", load, WIDE, MIXED, "sia")
        figures[f"jct_over_sia_{name}"] = ratio(of[OURS], of["sia"]).value
        figures[f"p99_over_sia_{name}"] = summarise(of[OURS]).p99 / summarise(of["sia"]).p99
    print_figures("scheduler_jct", figures)


if __name__ == "__main__":
    main()
