"""Logs of any known form, told apart by what is in them."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from cra_simulator.errors import DataError
from cra_simulator.logs import live, published
from cra_simulator.logs.logged import LoggedJob

TABLES: tuple[tuple[tuple[str, ...], Callable[[Path], Iterable[LoggedJob]]], ...] = (
    (published.PHILLY, published.read_philly_table),
    (published.HELIOS, published.read_helios),
    (published.ALIBABA, published.read_alibaba),
)
"""Columns that tell a CSV, and who reads it."""


def read_log(path: Path) -> list[LoggedJob]:
    """Read a log.

    Raises:
        DataError: It is of no form that is known, or a place in it makes no sense.
        OSError: It cannot be read.
    """
    if path.suffix != ".csv":
        return list(_read_json(path, read_json(path)))
    with path.open(newline="", encoding="utf-8") as file:
        header = next(csv.reader(file), [])
    for columns, read in TABLES:
        if set(columns) <= set(header):
            return list(read(path))
    known = "; ".join(", ".join(columns) for columns, _ in TABLES)
    raise DataError(f"{path}, line 1: these are not the columns of a known log, which are: {known}")


def read_json(path: Path) -> Any:
    """Read JSON.

    Raises:
        DataError: It is none.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise DataError(f"{path}, line {error.lineno}, column {error.colno}: {error.msg}") from None


def _read_json(path: Path, content: Any) -> Iterable[LoggedJob]:
    if isinstance(content, list):
        return published.read_philly(path, content)
    if live.is_job_list(content):
        return live.read_jobs(path, content)
    data = content.get("data") if isinstance(content, dict) else None
    if isinstance(data, dict) and data.get("resultType") == "matrix":
        return live.read_range(path, content)
    raise DataError(
        f"{path}: this is neither a list of Philly's jobs, nor of kubectl get crj -o json, nor a range of "
        "Prometheus"
    )
