"""The files of a profile, read with care: what is wrong is named with file, line and column."""

from __future__ import annotations

import csv
import gzip
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cra_operator.controller.policy import Floats
from cra_simulator.errors import DataError


@dataclass(frozen=True, kw_only=True)
class Application:
    """What the measurements of an application do not say, from its `application.json`.

    Attributes:
        epochs: Epochs that a job trains.
        node_gpus: GPUs of the nodes on which it was measured.
        largest_local_batch: Most samples that fit into a GPU; None for the largest that was measured.
        largest_gpus: Most GPUs that it can use; None for as many as its batch can feed.
        fixed_batch: Its total batch where it must not be chosen; None where it may.
    """

    epochs: int
    node_gpus: int
    largest_local_batch: int | None = None
    largest_gpus: int | None = None
    fixed_batch: int | None = None


def read_application(folder: Path) -> Application:
    """Read `application.json` of a profile.

    Raises:
        DataError: It is missing or says something else than `Application` has.
    """
    path = folder / "application.json"
    if not path.exists():
        raise DataError(f"{path} is missing; it is to say epochs and node_gpus of the application")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise DataError(f"{path}, line {error.lineno}, column {error.colno}: {error.msg}") from None
    known = Application.__dataclass_fields__
    if not isinstance(content, dict) or set(content) - set(known):
        raise DataError(f"{path}: must be an object with {', '.join(known)}")
    for name in ("epochs", "node_gpus"):
        if name not in content:
            raise DataError(f"{path}: {name} is missing")
    for name, value in content.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise DataError(f"{path}: {name} must be a whole number of at least 1, not {value!r}")
    return Application(**content)


def read_measurements(folder: Path, name: str, required: tuple[str, ...]) -> dict[str, Floats]:
    """Read a table of numbers, gzipped or not.

    Args:
        folder: Of the profile.
        name: File without `.gz`.
        required: .

    Returns:
        The columns, each [rows].

    Raises:
        DataError: The file or a column is missing, or a cell is no finite number.
    """
    path = folder / name
    packed = folder / f"{name}.gz"
    if packed.exists():
        path, text = packed, gzip.decompress(packed.read_bytes()).decode()
    elif path.exists():
        text = path.read_text(encoding="utf-8")
    else:
        raise DataError(f"{path} is missing")
    header, *rows = csv.reader(text.splitlines()) if text.strip() else [[]]
    missing = [column for column in required if column not in header]
    if missing:
        raise DataError(f"{path}, line 1: column {', '.join(missing)} is missing")
    if not rows:
        raise DataError(f"{path}, line 2: there are no measurements")
    return {
        column: np.array([_number(path, line, column, row, at) for line, row in enumerate(rows, start=2)])
        for at, column in enumerate(header)
        if column in required
    }


def _number(path: Path, line: int, column: str, row: list[str], at: int) -> float:
    cell = row[at] if at < len(row) else ""
    try:
        value = float(cell)
    except ValueError:
        raise DataError(f"{path}, line {line}, column {column}: {cell!r} is no number") from None
    if not np.isfinite(value):
        raise DataError(f"{path}, line {line}, column {column}: {cell!r} must be finite")
    return value
