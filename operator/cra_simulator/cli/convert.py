"""`cra-sim convert`: a workload from the log of a real cluster."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from cra_simulator.cli.setting import above
from cra_simulator.cluster import POLLUX_CLUSTER, parse_cluster
from cra_simulator.comparison import best_rates, known_applications
from cra_simulator.errors import DataError
from cra_simulator.logs.live import tables_of
from cra_simulator.logs.logged import single_gpu_seconds, workload_of
from cra_simulator.logs.reading import read_json, read_log
from cra_simulator.rates import write_rate_tables
from cra_simulator.workload import write_workload


def add_to(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "convert",
        help="make a workload from the log of a cluster",
        description="Make a workload from a log of Philly, Helios or Alibaba PAI, from what "
        "`kubectl get crj -A -o json` prints, or from a range of Prometheus over cra_operator_job_gpus. "
        "Jobs of which the log does not say what they trained get the application that takes about as much "
        "GPU time.",
    )
    parser.add_argument("log", type=Path, help="CSV or JSON; which of them is told by its content")
    parser.add_argument("--out", type=Path, metavar="FILE", help="where the workload goes (standard output)")
    parser.add_argument(
        "--tables",
        type=Path,
        metavar="FILE",
        help="for kubectl's list: write rate tables of the jobs' measured speeds, for --profiles",
    )
    parser.add_argument("--profiles", type=Path, metavar="PATH", help="applications to choose from")
    parser.add_argument("--cluster", metavar="SPEC", help="whose sizes the tables have (t4:16x4)")
    parser.add_argument(
        "--start", type=above(0, equal=True), default=0.0, metavar="H", help="hours to skip (0)"
    )
    parser.add_argument("--hours", type=above(0), metavar="H", help="hours to take (all)")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Run the command.

    Raises:
        DataError: The log cannot be used, or nothing in it.
    """
    jobs = read_log(arguments.log)
    cluster = parse_cluster(arguments.cluster) if arguments.cluster else POLLUX_CLUSTER
    rates = best_rates(arguments.profiles, cluster, frozenset(known_applications(arguments.profiles)))
    if arguments.tables:
        if len(cluster.pools) > 1:
            raise DataError("rate tables are for one type of GPU")
        own = tables_of(arguments.log, read_json(arguments.log), rates.sizes)
        # Jobs that were not measured have applications of the profiles.
        write_rate_tables(replace(rates, tables={**rates.tables, **own.tables}), arguments.tables)
    else:
        jobs = [replace(job, application=None) for job in jobs]
    begin = arguments.start * 3600
    end = begin + arguments.hours * 3600 if arguments.hours else float("inf")
    workload = workload_of(jobs, single_gpu_seconds(rates), begin=begin, end=end)
    if not workload:
        raise DataError(f"{arguments.log}: no job held GPUs in that time")
    if arguments.out is None:
        write_workload(workload, sys.stdout)
        return
    with arguments.out.open("w", encoding="utf-8") as file:
        write_workload(workload, file)
    print(f"{arguments.out}: {len(workload)} jobs in {workload[-1].submitted / 3600:.1f} hours")
