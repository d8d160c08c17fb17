"""Jobs to be submitted, read from CSV.

Columns: `name`, `time` (seconds since the start), `application` (a name of the rate tables), and, each of
them optional, `num_replicas` and `batch_size` (what the job's owner asked for) and `priority` (larger goes
first). That is the format of the workloads of the Pollux artifact; other columns are ignored.
"""

from __future__ import annotations

import csv
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

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
    with path.open(newline="", encoding="utf-8") as file:
        rows = csv.DictReader(file)
        missing = [name for name in ("name", "time", "application") if name not in (rows.fieldnames or ())]
        if missing:
            raise DataError(f"{path}, line 1: column {', '.join(missing)} is missing")
        jobs = []
        seen: set[str] = set()
        for row in rows:
            cells = _Cells(path, rows.line_num, row)
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


def merge(workloads: Mapping[str, Sequence[TraceJob]]) -> tuple[TraceJob, ...]:
    """Several workloads submitted to one cluster; each job's name begins with that of its workload."""
    jobs = [replace(job, name=f"{name}/{job.name}") for name, part in workloads.items() for job in part]
    return tuple(sorted(jobs, key=lambda job: job.submitted))


@dataclass(frozen=True)
class _Cells:
    """One line, with errors that say where."""

    path: Path
    line: int
    row: dict[str, str | None]

    def error(self, column: str, message: str) -> DataError:
        return DataError(f"{self.path}, line {self.line}, column {column}: {message}")

    def text(self, column: str) -> str:
        value = (self.row.get(column) or "").strip()
        if not value:
            raise self.error(column, "is empty")
        return value

    def number(self, column: str, *, default: float | None = None, least: float | None = 0.0) -> float:
        value = (self.row.get(column) or "").strip()
        if not value and default is not None:
            return default
        try:
            number = float(value)
        except ValueError:
            raise self.error(column, f"{value!r} is no number") from None
        if not abs(number) < float("inf") or (least is not None and number < least):
            raise self.error(column, f"{value!r} must be a finite number of at least {least:g}")
        return number
