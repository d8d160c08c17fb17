"""`cra-sim replay`: one workload under one policy, change by change."""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

from cra_simulator.cli.setting import add_setting, setting_of
from cra_simulator.cli.workloads import add_workload, workload_of
from cra_simulator.cluster import Cluster
from cra_simulator.errors import DataError
from cra_simulator.recording import Span, replay
from cra_simulator.result import Result
from cra_simulator.workload import TraceJob


def add_to(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "replay",
        help="run one workload under one policy and tell every change of size",
        description="Run one workload under one policy and tell every change of size, in order of time.",
    )
    add_workload(parser)
    parser.add_argument("--policy", default="attention", metavar="NAME", help="whose (attention)")
    parser.add_argument("--job", metavar="NAME", help="tell of this job only")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write the sizes of all jobs to a file, too")
    add_setting(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Run the command.

    Raises:
        DataError: There is no such job or policy.
    """
    setting = setting_of(arguments)
    jobs = workload_of(arguments)
    if arguments.job is not None and arguments.job not in {job.name for job in jobs}:
        raise DataError(f"there is no job {arguments.job!r} in the workload")
    lives, result = replay(jobs, arguments.policy, setting)
    if arguments.csv:
        write(lives, jobs, setting.cluster, arguments.csv)
    for time, name, what in story(lives, jobs, result, setting.cluster):
        if arguments.job in (None, name):
            print(f"{time:10.0f} s  {name:24} {what}")
    print(f"mean {result.mean_seconds:.0f} s, makespan {result.makespan_seconds:.0f} s")


def story(
    lives: Iterable[Span], jobs: Sequence[TraceJob], result: Result, cluster: Cluster
) -> list[tuple[float, str, str]]:
    """Seconds, job and what happened, in order of time."""
    events = [(span.start, jobs[span.job].name, _size(span, cluster)) for span in lives]
    events += [
        (job.finished, job.name, f"done after {job.completion_seconds:.0f} s, {job.restarts} restarts")
        for job in result.jobs
    ]
    return sorted(events, key=lambda event: event[0])


def _size(span: Span, cluster: Cluster) -> str:
    size = f"{span.gpus} {cluster.pools[span.kind].kind}" if span.gpus else "waits"
    return size if span.weight is None else f"{size:8} attention {span.weight:.1%}"


def write(lives: Iterable[Span], jobs: Sequence[TraceJob], cluster: Cluster, path: Path) -> None:
    """Write the size of each job over time as CSV; seconds, GPUs and their type."""
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["name", "start", "end", "gpus", "type"])
        for span in lives:
            kind = cluster.pools[span.kind].kind if span.gpus else ""
            rows.writerow([jobs[span.job].name, span.start, span.end, span.gpus, kind])
