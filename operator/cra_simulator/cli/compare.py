"""`cra-sim compare`: policies side by side on workloads of one's own or on those that ship."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from cra_simulator.cli.setting import add_setting, setting_of
from cra_simulator.cli.table import render
from cra_simulator.cli.workloads import add_workloads, workloads_of
from cra_simulator.comparison import Outcome, compare
from cra_simulator.schedulers import LEARNED, SCHEDULERS, scheduler_of
from cra_simulator.summary import ratio, summarise

CONTROLS = ("afs", "goodput-untuned", "goodput")
"""What every learned policy stands beside: a published rule that knows remaining work, the rule that training
starts from, and the best that three numbers for all jobs can do.
"""


def add_to(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "compare",
        help="run several policies on the same workloads and print a table",
        description="Run several policies on the same workloads and print a table for each load. Learned "
        "policies never stand alone: the untrained rule, the tuned one and AFS are added.",
    )
    add_workloads(parser)
    parser.add_argument("--policies", nargs="+", metavar="NAME", help=f"of {', '.join(SCHEDULERS)} (all)")
    parser.add_argument(
        "--baseline", metavar="NAME", help="whose mean is 1 (pollux, on several types of GPU sia)"
    )
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="processes (1)")
    add_setting(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Run the command."""
    setting = setting_of(arguments)
    several = len(setting.cluster.pools) > 1
    baseline = arguments.baseline or ("sia" if several else "pollux")
    names = chosen(arguments.policies, baseline, several=several)
    for title, workloads in workloads_of(arguments):
        outcomes = compare(workloads, names, setting, processes=max(arguments.jobs, 1))
        print(f"{title}: {len(workloads)} workloads, {sum(map(len, workloads.values()))} jobs")
        print(table(outcomes, names, baseline))
        print()
    print("r uses declared remaining work, L was trained. ratio: mean over that of the baseline, with the")
    print(
        "95 % interval of the paired bootstrap over workloads. rho: finish-time fairness, the worst job's and"
    )
    print("how many are above 1.")


def chosen(names: Sequence[str] | None, baseline: str, *, several: bool) -> list[str]:
    """The policies to run: those named, the baseline, and the controls of learned ones; in the order of
    `SCHEDULERS`.

    Raises:
        DataError: A name is not known.
    """
    able = [name for name, scheduler in SCHEDULERS.items() if scheduler.mixed or not several]
    wanted = set(able if names is None else names) | {baseline}
    for name in wanted:
        scheduler_of(name)
    if wanted & set(LEARNED):
        wanted |= set(CONTROLS) & set(able)
    return [name for name in SCHEDULERS if name in wanted]


def table(outcomes: Sequence[Outcome], names: Sequence[str], baseline: str) -> str:
    """The comparison as text."""
    of = {name: [outcome for outcome in outcomes if outcome.scheduler == name] for name in names}
    rows = []
    for name in names:
        total, over = summarise(of[name]), ratio(of[name], of[baseline])
        marks = "r" * SCHEDULERS[name].knows_remaining + "L" * SCHEDULERS[name].learned
        rows.append(
            [name, marks, f"{total.mean:.0f}", f"{total.median:.0f}", f"{total.p99:.0f}",
             f"{total.makespan / 3600:.1f}", f"{total.restarts:.1f}", f"{total.gpu_hours:.2f}",
             f"{total.worst_fairness:.1f}", f"{total.unfair:.0%}", f"{over.value:.3f}",
             f"{over.low:.3f}-{over.high:.3f}"]
        )  # fmt: skip
    header = ("policy", "", "mean s", "median s", "p99 s", "makespan h", "restarts", "GPU h", "worst rho",
              "rho > 1", "ratio", "95 %")  # fmt: skip
    return render(header, rows)
