"""What a step costs each rank whatever its rows: s_i in t_i = s_i + q_i·b_i.

While a plan stands, rank i trains b rows in a mean time t; under the next it trains other rows in another
time, and two points make a line: s = (t'·b - t·b') / (b - b'). The split itself needs no s: giving rows in
proportion to b/t ends where all times are equal, with or without fixed costs. But who asks what another split
would have cost must know which part of a time moves with the rows. Where it does not, taking rows from a
slow rank seems to gain and gains nothing, and a learner that believes it takes all of them.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from cra_trainer.allocation.shares import Floats, Ints

# Measurements of a mean, and how far apart two numbers of rows must be, relative to the larger.
ENOUGH, APART = 3, 0.2


class FixedCosts:
    """Running estimate for n ranks; 0 where nothing is known."""

    def __init__(self, world_size: int) -> None:
        self.seconds: Floats = np.zeros(world_size)
        self._rows: Floats = np.zeros(world_size)
        self._sum: Floats = np.zeros(world_size)
        self._count: Ints = np.zeros(world_size, dtype=np.int64)
        self._before: tuple[Floats, Floats] = np.zeros(world_size), np.zeros(world_size)

    def observe(self, rows: Floats, seconds: Floats) -> None:
        """A step with these rows of each rank took it so long, on average over a few.

        Args:
            rows: Rows of each rank, [n].
            seconds: Seconds that each computed, [n].
        """
        moved = rows != self._rows
        if moved.any():
            known = moved & (self._count >= ENOUGH)
            mean = self._sum / np.maximum(self._count, 1)
            self._before = (
                np.where(known, self._rows, self._before[0]),
                np.where(known, mean, self._before[1]),
            )
            self._rows = rows.copy()
            self._sum, self._count = np.where(moved, 0.0, self._sum), np.where(moved, 0, self._count)
        self._sum, self._count = self._sum + seconds, self._count + 1
        self._fit()

    def _fit(self) -> None:
        rows, times = self._before
        now = self._sum / self._count
        apart = np.abs(self._rows - rows) > APART * np.maximum(self._rows, rows)
        usable = apart & (rows > 0) & (self._count >= ENOUGH)
        if usable.any():
            line = (times * self._rows - now * rows) / np.where(usable, self._rows - rows, 1.0)
            self.seconds = np.where(usable, np.clip(line, 0.0, np.minimum(times, now)), self.seconds)

    def forget(self, ranks: Any) -> None:
        """These ranks' speed has changed: what was measured before says nothing of now."""
        self._before[0][ranks], self._count[ranks], self._sum[ranks] = 0.0, 0, 0.0

    def resized(self, kept: Ints) -> FixedCosts:
        """For another group, whose rank i was kept[i] in this one, or is new (-1)."""
        new, stay = FixedCosts(len(kept)), kept >= 0
        new.seconds[stay] = self.seconds[kept[stay]]
        return new
