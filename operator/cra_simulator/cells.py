"""Cells of CSV files, with errors that say where."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cra_simulator.errors import DataError


def rows_of(path: Path, required: Sequence[str]) -> Iterator[Cells]:
    """The lines of a CSV file below its header.

    Raises:
        DataError: A column is missing.
        OSError: The file cannot be read.
    """
    with path.open(newline="", encoding="utf-8") as file:
        rows = csv.DictReader(file)
        try:
            missing = [name for name in required if name not in (rows.fieldnames or ())]
            if missing:
                raise DataError(f"{path}, line 1: column {', '.join(missing)} is missing")
            for row in rows:
                yield Cells(path, rows.line_num, row)
        except (UnicodeDecodeError, csv.Error) as error:
            raise DataError(f"{path}, line {rows.line_num + 1}: this is no CSV text: {error}") from None


@dataclass(frozen=True)
class Cells:
    """One line, with errors that say where."""

    path: Path
    line: int
    row: Mapping[str, str | None]

    def error(self, column: str, message: str) -> DataError:
        """What to raise about a cell."""
        return DataError(f"{self.path}, line {self.line}, column {column}: {message}")

    def text(self, column: str) -> str:
        """A cell that must not be empty."""
        value = (self.row.get(column) or "").strip()
        if not value:
            raise self.error(column, "is empty")
        return value

    def number(self, column: str, *, default: float | None = None, least: float | None = 0.0) -> float:
        """A finite number; `default` where the cell is empty, None where it must not be."""
        value = (self.row.get(column) or "").strip()
        if not value and default is not None:
            return default
        try:
            number = float(value)
        except ValueError:
            raise self.error(column, f"{value!r} is no number") from None
        if not abs(number) < float("inf") or (least is not None and number < least):
            bound = "" if least is None else f" of at least {least:g}"
            raise self.error(column, f"{value!r} must be a finite number{bound}")
        return number
