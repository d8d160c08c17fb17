"""Ranks that are slow for good: the allocator can make the best of one, but whoever owns the machines should
know.

A rank is a straggler when it has been slow for `PERSISTENT` seconds of steps. Slow means one of two things:
it computes less than `FALLEN` of the best that it did itself, and the others have not fallen alike (then it
is the work that got heavier); or it does less than `BEHIND` of what the median rank does, however long it has
done so. The first finds a GPU that throttles or a noisy neighbour, the second a machine that came broken.
Eight equal ranks of which one does half the work lose 6 % with the best split, and 12.5 % without that rank.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cra_trainer.allocation.shares import Floats

FALLEN, BEHIND = 0.7, 1 / 3
PERSISTENT = 30.0


class StragglerWatch:
    """Watches the measured speed of n ranks; nothing in it but comparisons, so all ranks come to the same."""

    def __init__(self, world_size: int) -> None:
        self._best: Floats = np.full(world_size, -np.inf)
        self._slow_for: Floats = np.zeros(world_size)

    @property
    def stragglers(self) -> NDArray[np.bool_]:
        """Which ranks are slow for good, [n]."""
        return np.asarray(self._slow_for >= PERSISTENT)

    def observe(self, log_speed: Floats, seconds: float) -> None:
        """All ranks were measured, over `seconds` of steps.

        Args:
            log_speed: Of each rank's present samples per second, [n].
        """
        self._best = np.maximum(self._best, log_speed)
        fallen = log_speed - self._best
        slow = fallen - np.median(fallen) < np.log(FALLEN)
        slow |= log_speed - np.median(log_speed) < np.log(BEHIND)
        # One good measurement does not acquit, and half the time does.
        self._slow_for = np.clip(self._slow_for + np.where(slow, seconds, -seconds), 0.0, PERSISTENT * 1.5)

    def resized(self, kept: Sequence[int]) -> StragglerWatch:
        """For another group, whose rank i was kept[i] in this one, or is new (-1)."""
        new, ranks = StragglerWatch(len(kept)), np.asarray(kept)
        stay = ranks >= 0
        new._best[stay], new._slow_for[stay] = self._best[ranks[stay]], self._slow_for[ranks[stay]]
        return new
