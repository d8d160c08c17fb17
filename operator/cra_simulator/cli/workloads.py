"""The arguments that name workloads; commands share them."""

from __future__ import annotations

import argparse
from pathlib import Path

from cra_simulator import data
from cra_simulator.comparison import Workloads, known_applications
from cra_simulator.shipped import shipped_workloads
from cra_simulator.workload import TraceJob, read_workload


def add_workloads(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `workloads_of`."""
    parser.add_argument(
        "--workload", type=Path, nargs="+", metavar="FILE", help="CSV files with name, time and application"
    )
    parser.add_argument(
        "--loads",
        type=_load,
        nargs="+",
        default=[1.0],
        metavar="LOAD",
        help="without files, of the workloads that ship: 0.5 1 1.5 2 5, or realistic, which is 1 with what "
        "users ask for (1)",
    )


def _load(text: str) -> float | str:
    return text if text == "realistic" else float(text)


def workloads_of(arguments: argparse.Namespace) -> list[tuple[str, Workloads]]:
    """The workloads that arguments name, in groups that are summed up together, each with its title.

    Raises:
        DataError: A file is bad or there is no such load.
    """
    if not arguments.workload:
        return [(f"load {load}", shipped_workloads(load)) for load in arguments.loads]
    known = known_applications(arguments.profiles)
    # The whole path, as names of files may agree where their folders do not.
    return [
        ("all files", {str(path): read_workload(path, applications=known) for path in arguments.workload})
    ]


def add_workload(parser: argparse.ArgumentParser) -> None:
    """Add the argument of `workload_of`."""
    parser.add_argument(
        "--workload", type=Path, metavar="FILE", help="a CSV file (the first that ships, of load 1)"
    )


def workload_of(arguments: argparse.Namespace) -> tuple[TraceJob, ...]:
    """The one workload that arguments name.

    Raises:
        DataError: The file is bad.
    """
    path = arguments.workload or data.workloads(1.0)[0]
    return read_workload(path, applications=known_applications(arguments.profiles))
