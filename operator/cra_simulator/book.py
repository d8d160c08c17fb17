"""All rate tables of a simulation side by side, as the compiled clock reads them."""

from __future__ import annotations

import numpy as np

from cra_simulator.errors import SimulationError
from cra_simulator.rates import RateTable, RateTables, Shape


class Book:
    """All rate tables as padded arrays; rows for unusual placements are added when they first occur.

    Attributes:
        tables: The tables, [A].
        epochs: Epochs of each, [A].
        work: Progress that is the whole work of each, [A].
        ends: Progress at the end of each epoch, [A, E]; infinite beyond the last.
        true_rate: Progress/s in each epoch, [R, E]; a row for each table and size, then those added.
    """

    def __init__(self, rates: RateTables) -> None:
        self._names = list(rates.tables)
        self.tables: list[RateTable] = list(rates.tables.values())
        self.epochs = np.array([len(table.progress) for table in self.tables])
        self.work = np.array([table.progress[-1] for table in self.tables])
        longest = int(self.epochs.max())
        self.ends = np.full((len(self.tables), longest), np.inf)
        self._columns = len(rates.sizes)
        self.true_rate = np.zeros((len(self.tables) * self._columns, longest))
        for i, table in enumerate(self.tables):
            self.ends[i, : len(table.progress)] = table.progress
            rows = slice(i * self._columns, (i + 1) * self._columns)
            self.true_rate[rows, : len(table.progress)] = table.rate.T
        self._placed: dict[tuple[int, Shape], int] = {}

    def index(self, name: str, job: str) -> int:
        """Number of the table that a job names."""
        if name not in self._names:
            raise SimulationError(f"job {job}: there is no rate table {name!r}")
        return self._names.index(name)

    def packed_row(self, table: int, column: int) -> int:
        """Row of `true_rate` for a packed job of a size."""
        return table * self._columns + column

    def placed_row(self, table: int, shape: Shape) -> int:
        """Row of `true_rate` for a job on nodes of a shape."""
        known = self._placed.get((table, shape))
        if known is None:
            placed = self.tables[table].placed
            assert placed is not None
            row = np.zeros((1, self.true_rate.shape[1]))
            row[0, : self.epochs[table]] = placed(shape)
            known = self._placed[table, shape] = len(self.true_rate)
            self.true_rate = np.concatenate([self.true_rate, row])
        return known
