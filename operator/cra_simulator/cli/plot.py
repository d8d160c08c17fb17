"""`cra-sim plot`: pictures of runs and of training."""

from __future__ import annotations

import argparse
from pathlib import Path

from cra_simulator.cli.setting import add_setting, setting_of
from cra_simulator.cli.workloads import add_workload, workload_of
from cra_simulator.plots import draw_completion, draw_curves, draw_gantt
from cra_simulator.recording import replay
from cra_simulator.training_logs import read_curves


def add_to(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command and its three kinds of pictures."""
    parser = commands.add_parser("plot", help="draw GPUs by job, completion times or learning curves as PNG")
    kinds = parser.add_subparsers(required=True, metavar="kind")
    for kind, draw, about in (
        ("gantt", gantt, "the GPUs of each job over time, a panel for each policy"),
        ("jct", completion, "the distribution of job completion times"),
    ):
        picture = kinds.add_parser(kind, help=about, description=f"Draw {about}.")
        add_workload(picture)
        picture.add_argument(
            "--policies",
            nargs="+",
            default=["pollux", "attention"],
            metavar="NAME",
            help="(pollux attention)",
        )
        add_setting(picture)
        picture.add_argument(
            "--out", type=Path, default=Path(f"{kind}.png"), metavar="FILE", help=f"({kind}.png)"
        )
        picture.set_defaults(run=draw)
    picture = kinds.add_parser("curves", help="learning curves", description="Draw learning curves.")
    picture.add_argument("logs", type=Path, nargs="+", metavar="DIR", help="folders with TensorBoard logs")
    picture.add_argument("--tag", default="score", metavar="TAG", help="what to draw (score)")
    picture.add_argument("--out", type=Path, default=Path("curves.png"), metavar="FILE", help="(curves.png)")
    picture.set_defaults(run=curves)


def gantt(arguments: argparse.Namespace) -> None:
    """Draw the GPUs of each job over time."""
    jobs, setting = workload_of(arguments), setting_of(arguments)
    panels = {}
    for policy in arguments.policies:
        lives, result = replay(jobs, policy, setting)
        panels[f"{policy}: mean {result.mean_seconds / 60:.0f} min"] = lives
    draw_gantt(panels, arguments.out)
    print(arguments.out)


def completion(arguments: argparse.Namespace) -> None:
    """Draw the distribution of job completion times."""
    jobs, setting = workload_of(arguments), setting_of(arguments)
    runs = {policy: replay(jobs, policy, setting)[1].completion_seconds for policy in arguments.policies}
    draw_completion(runs, arguments.out)
    print(arguments.out)


def curves(arguments: argparse.Namespace) -> None:
    """Draw learning curves.

    Raises:
        DataError: There are no logs, or not of that name.
    """
    draw_curves(read_curves(arguments.logs, arguments.tag), arguments.tag, arguments.out)
    print(arguments.out)
