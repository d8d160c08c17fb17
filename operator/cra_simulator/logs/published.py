"""Logs as the large clusters publish them.

- Philly (Jeon et al., ATC'19; github.com/msr-fiddle/philly-traces): `cluster_job_log`, JSON, and the CSV that
  the Pollux artifact made of it (`timestamp`, `duration`, `num_gpus`);
- Helios (Hu et al., SC'21; github.com/S-Lab-System-Group/HeliosData): `cluster_log.csv`;
- Alibaba PAI (Weng et al., NSDI'22; github.com/alibaba/clusterdata, cluster-trace-gpu-v2020):
  `pai_task_table.csv` with the line of its `.header` file on top; GPUs are in percent, and the tasks of a job
  run side by side.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cra_simulator.cells import Cells, rows_of
from cra_simulator.errors import DataError
from cra_simulator.logs.logged import LoggedJob

PHILLY = ("timestamp", "duration", "num_gpus")
HELIOS = ("job_id", "gpu_num", "submit_time", "duration")
ALIBABA = ("job_name", "inst_num", "start_time", "end_time", "plan_gpu")


def seconds_at(text: str) -> float:
    """Seconds since 1970 of a date and time; without a zone it is taken for UTC.

    Raises:
        ValueError: It is none.
    """
    when = datetime.fromisoformat(text.strip())
    return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()


def _time(cells: Cells, column: str) -> float:
    text = cells.text(column)
    try:
        return seconds_at(text)
    except ValueError:
        raise cells.error(column, f"{text!r} is no date and time, such as 2020-06-09 18:41:01") from None


def read_philly_table(path: Path) -> Iterator[LoggedJob]:
    """Philly as the Pollux artifact has it."""
    for cells in rows_of(path, PHILLY):
        gpus = int(cells.number("num_gpus"))
        yield LoggedJob(
            name=f"job-{cells.line - 1}",
            submitted=_time(cells, "timestamp"),
            gpus=gpus,
            gpu_seconds=gpus * cells.number("duration"),
        )


def read_helios(path: Path) -> Iterator[LoggedJob]:
    """`cluster_log.csv` of Helios."""
    for cells in rows_of(path, HELIOS):
        gpus = int(cells.number("gpu_num"))
        yield LoggedJob(
            name=cells.text("job_id"),
            submitted=_time(cells, "submit_time"),
            gpus=gpus,
            gpu_seconds=gpus * cells.number("duration"),
        )


def read_alibaba(path: Path) -> Iterator[LoggedJob]:
    """`pai_task_table.csv` of Alibaba PAI; one job for all its tasks, parts of GPUs rounded up."""
    tasks: dict[str, list[tuple[float, float, float]]] = {}
    for cells in rows_of(path, ALIBABA):
        # What never ran or still runs has no times, what only computes on CPUs has no GPUs.
        if all((cells.row.get(column) or "").strip() for column in ("start_time", "end_time", "plan_gpu")):
            gpus = cells.number("plan_gpu") / 100 * cells.number("inst_num", default=1)
            start, end = cells.number("start_time"), cells.number("end_time")
            tasks.setdefault(cells.text("job_name"), []).append((start, end, gpus))
    for name, parts in tasks.items():
        yield LoggedJob(
            name=name,
            submitted=min(start for start, _, _ in parts),
            gpus=math.ceil(sum(gpus for _, _, gpus in parts)),
            gpu_seconds=sum(gpus * max(end - start, 0.0) for start, end, gpus in parts),
        )


def read_philly(path: Path, content: list[Any]) -> Iterator[LoggedJob]:
    """`cluster_job_log` of Philly; GPUs of the last attempt, time of all that have one.

    Raises:
        DataError: An entry is not of that form.
    """
    for place, entry in enumerate(content, start=1):
        try:
            attempts = [
                (seconds_at(one["start_time"]), seconds_at(one["end_time"]), _gpus(one))
                for one in entry["attempts"]
                if all(one[key] not in (None, "None") for key in ("start_time", "end_time"))
            ]
            yield LoggedJob(
                name=str(entry["jobid"]),
                submitted=seconds_at(entry["submitted_time"]),
                gpus=attempts[-1][2] if attempts else 0,
                gpu_seconds=sum((end - start) * gpus for start, end, gpus in attempts),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{path}, entry {place}: {type(error).__name__} {error}") from None


def _gpus(attempt: dict[str, Any]) -> int:
    return sum(len(node["gpus"]) for node in attempt["detail"])
