"""Jobs to be submitted, read from CSV.

Columns: `name`, `time` (seconds since the start), `application` (a name of the rate tables), and, each of
them optional, `num_replicas` and `batch_size` (what the job's owner asked for) and `priority` (larger goes
first). That is the format of the workloads of the Pollux artifact; other columns are ignored.
"""

from __future__ import annotations

import csv
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TextIO

from cra_simulator.cells import rows_of
from cra_simulator.errors import DataError


@dataclass(frozen=True, kw_only=True, slots=True)
class TraceJob:
    """One submission.

    Attributes:
        name: Its name, unique in the workload.
        submitted: Seconds since the start.
        application: What it trains.
        gpus: GPUs that its owner asked for; 0 if nothing was said.
        batch_size: Total batch that its owner asked for; 0 if nothing was said.
        priority: Larger goes first.
    """

    name: str
    submitted: float
    application: str
    gpus: int = 0
    batch_size: int = 0
    priority: float = 0.0


def read_workload(path: Path, *, applications: Collection[str] | None = None) -> tuple[TraceJob, ...]:
    """Read a workload, in order of submission.

    Args:
        path: The CSV file.
        applications: The names that are known; None takes any.

    Raises:
        DataError: A column is missing or a cell makes no sense.
        OSError: The file cannot be read.
    """
    jobs = []
    seen: set[str] = set()
    for cells in rows_of(path, ("name", "time", "application")):
        name, application = cells.text("name"), cells.text("application")
        if name in seen:
            raise cells.error("name", f"{name!r} is there twice; names must differ")
        if applications is not None and application not in applications:
            known = ", ".join(sorted(applications))
            raise cells.error("application", f"{application!r} has no profile; there are {known}")
        seen.add(name)
        jobs.append(
            TraceJob(
                name=name,
                submitted=cells.number("time"),
                application=application,
                gpus=int(cells.number("num_replicas", default=0)),
                batch_size=int(cells.number("batch_size", default=0)),
                priority=cells.number("priority", default=0, least=None),
            )
        )
    if not jobs:
        raise DataError(f"{path}, line 2: there are no jobs")
    return tuple(sorted(jobs, key=lambda job: job.submitted))


def write_workload(jobs: Iterable[TraceJob], file: TextIO) -> None:
    """Write a workload as `read_workload` reads it."""
    rows = csv.writer(file, lineterminator="\n")
    rows.writerow(["name", "time", "application", "num_replicas", "batch_size", "priority"])
    for job in jobs:
        rows.writerow(
            [
                job.name,
                round(job.submitted, 3),
                job.application,
                job.gpus,
                job.batch_size,
                f"{job.priority:g}",
            ]
        )


def merge(workloads: Mapping[str, Sequence[TraceJob]]) -> tuple[TraceJob, ...]:
    """Several workloads submitted to one cluster; each job's name begins with that of its workload."""
    jobs = [replace(job, name=f"{name}/{job.name}") for name, part in workloads.items() for job in part]
    return tuple(sorted(jobs, key=lambda job: job.submitted))
