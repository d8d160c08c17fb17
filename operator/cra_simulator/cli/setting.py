"""The arguments that say where and how workloads run; commands share them."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from cra_simulator.cluster import POLLUX_CLUSTER, parse_cluster
from cra_simulator.comparison import Setting
from cra_simulator.errors import DataError


def add_setting(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `setting_of`."""
    group = parser.add_argument_group("the simulated world")
    group.add_argument(
        "--profiles",
        type=Path,
        metavar="PATH",
        help="a folder of profiles or a file of rate tables (the six applications of Pollux)",
    )
    group.add_argument("--cluster", metavar="SPEC", help="TYPE:NODESxGPUS, several with commas (t4:16x4)")
    group.add_argument(
        "--interval", type=above(0), default=60.0, metavar="S", help="seconds between decisions (60)"
    )
    group.add_argument(
        "--restart",
        type=above(0, equal=True),
        default=30.0,
        metavar="S",
        help="seconds without progress after a change of GPUs (30)",
    )
    group.add_argument(
        "--error",
        type=above(0, equal=True),
        default=0.0,
        metavar="SIGMA",
        help="error of the remaining work that policies see: standard deviation of its logarithm (0)",
    )
    group.add_argument(
        "--noise",
        type=above(0, equal=True),
        default=0.0,
        metavar="SIGMA",
        help="the same of measured goodput, at every look (0)",
    )
    group.add_argument(
        "--fitted",
        action="store_true",
        help="show policies models that are fitted to what was measured so far, as the operator does",
    )
    group.add_argument("--seed", type=int, default=0, help="of what is left to chance (0)")


def setting_of(arguments: argparse.Namespace) -> Setting:
    """The setting that arguments name.

    Raises:
        DataError: The cluster or the profiles are not there.
    """
    if arguments.profiles is not None and not arguments.profiles.exists():
        raise DataError(f"{arguments.profiles}: there is no such file or folder")
    return Setting(
        cluster=parse_cluster(arguments.cluster) if arguments.cluster else POLLUX_CLUSTER,
        profiles=arguments.profiles,
        interval=arguments.interval,
        restart=arguments.restart,
        work_sigma=arguments.error,
        rate_sigma=arguments.noise,
        seed=arguments.seed,
        fitted=arguments.fitted,
    )


def above(least: float, *, equal: bool = False) -> Callable[[str], float]:
    """What parses a finite number above a bound, or at least it."""

    def number(text: str) -> float:
        value = float(text)
        if not (least < value < float("inf") or (equal and value == least)):
            raise argparse.ArgumentTypeError(f"{text} must be {'at least' if equal else 'above'} {least:g}")
        return value

    return number
