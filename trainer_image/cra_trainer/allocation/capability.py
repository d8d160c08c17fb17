"""What each rank was measured to do: samples per second, and how steadily.

Each step brings one time per rank. The speed is a mean of log(rows / seconds), in which a factor up and the
same factor down weigh alike: over all steps since it last changed, up to `MEMORY`, for noise is averaged away
only by many steps. Such a mean is slow to see a change, so a change is looked for: Page's CUSUM (Biometrika
1954), both ways, on deviations in units of the rank's own spread. When it alarms, the mean starts again from
the steps since the sum left zero, which is where the change began. No single step can raise an alarm, and no
deviation below a few per cent adds to one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cra_trainer.allocation.shares import Floats, Ints

# Steps that a mean reaches back, and that the spread does.
MEMORY = 50
SPREAD_MEMORY = 10
# Of the CUSUM, in units of the spread: what a deviation must exceed to count, how much of it may count, and
# the sum that is a change. Three steps that are far off make one; with noise alone it takes some thousand.
IGNORED, COUNTED, ALARM = 0.75, 3.0, 6.0
# Error of a mean that is good enough to go on with.
BELIEVED = 0.05
# The least spread that is believed.
STEADIEST = 0.02


class CapabilityTracker:
    """Running estimate of every rank's speed, computed alike on every rank from the same times."""

    def __init__(self, world_size: int) -> None:
        self._mean: Floats = np.zeros(world_size)
        self._variance: Floats = np.zeros(world_size)
        self._seen: Ints = np.zeros(world_size, dtype=np.int64)
        # Of a possible change up and down, [2, n]: the CUSUM, and steps and summed deviations since it was 0.
        self._cusum: Floats = np.zeros((2, world_size))
        self._run: Ints = np.zeros((2, world_size), dtype=np.int64)
        self._run_sum: Floats = np.zeros((2, world_size))

    @property
    def known(self) -> bool:
        """Whether every rank has been measured."""
        return bool((self._seen > 0).all())

    @property
    def measured(self) -> NDArray[np.bool_]:
        """Which ranks have been measured."""
        return np.asarray(self._seen > 0)

    @property
    def log_speed(self) -> Floats:
        """log c of each rank; 0 where nothing has been measured."""
        return self._mean

    @property
    def samples_per_second(self) -> Floats:
        """Capability c of each rank; 0 where nothing has been measured."""
        return np.where(self._seen > 0, np.exp(self._mean), 0.0)

    @property
    def variation(self) -> Floats:
        """Coefficient of variation of each rank's time per sample."""
        return np.sqrt(self._variance)

    def resized(self, kept: Sequence[int]) -> CapabilityTracker:
        """The estimate for another group, whose rank i was kept[i] in this one, or is new (-1)."""
        new = CapabilityTracker(len(kept))
        ranks = np.asarray(kept)
        stay = ranks >= 0
        new._mean[stay], new._variance[stay] = self._mean[ranks[stay]], self._variance[ranks[stay]]
        new._seen[stay] = self._seen[ranks[stay]]
        new.doubt(stay)
        return new

    def doubt(self, ranks: Any) -> None:
        """Let these ranks' next steps count for more: they train other numbers of rows now, at which fixed
        costs make them another speed. A mean of a time that varies keeps the more of its past, for its next
        steps say little.
        """
        enough = np.clip((self.variation / BELIEVED) ** 2, 2, MEMORY).astype(np.int64)
        self._seen[ranks] = np.minimum(self._seen, enough)[ranks]
        self._cusum[:, ranks] = 0.0

    def update(self, rows: Ints, seconds: Floats) -> NDArray[np.bool_]:
        """Take in one step: the rows that each rank trained and the seconds it computed; ranks without rows
        are left.

        Returns:
            Which ranks' speed has changed, [n].
        """
        measured = (rows > 0) & (seconds > 0)
        log_speed = np.log(np.where(measured, rows, 1) / np.where(measured, seconds, 1.0))
        self._mean = np.where(measured & (self._seen == 0), log_speed, self._mean)
        deviation = np.where(measured, log_speed - self._mean, 0.0)
        spread = np.maximum(np.sqrt(self._variance), STEADIEST)
        changed = self._look_for_change(measured, deviation, spread)
        self._seen = self._seen + measured
        weight = measured / np.clip(self._seen, 1, MEMORY)
        self._mean = np.where(changed, self._mean, self._mean + weight * deviation)
        # An outlier widens the spread only so far: one true change must not hide its own next steps.
        square = np.minimum(np.abs(deviation), COUNTED * spread) ** 2
        believed = measured & ~changed & (self._seen > 1)
        weight = believed / np.clip(self._seen, 2, SPREAD_MEMORY)
        self._variance = self._variance + weight * (square - self._variance)
        return np.asarray(changed)

    def _look_for_change(self, measured: Any, deviation: Floats, spread: Floats) -> Any:
        """Which ranks' speed has changed, [n] of bool; their means are then those of the new speed."""
        size = deviation / spread
        both = np.minimum(np.stack((size, -size)), COUNTED)
        self._cusum = np.where(measured, np.maximum(0.0, self._cusum + both - IGNORED), self._cusum)
        rising = self._cusum > 0
        log_speed = self._mean + deviation
        self._run = np.where(rising, self._run + measured, 0)
        self._run_sum = np.where(rising, self._run_sum + measured * log_speed, 0.0)
        alarms = (self._cusum > ALARM) & (self._seen > 2)
        changed = alarms.any(axis=0)
        if changed.any():
            side = alarms[1].astype(np.int64)
            ranks = np.arange(len(deviation))
            start = self._run_sum[side, ranks] / np.maximum(self._run[side, ranks], 1)
            self._seen = np.where(changed, self._run[side, ranks] - 1, self._seen)
            self._mean = np.where(changed, start, self._mean)
            self._cusum[:, changed] = 0.0
        return changed

    def state_dict(self) -> dict[str, Any]:
        """Plain lists, for a checkpoint."""
        return {
            "mean": self._mean.tolist(),
            "variance": self._variance.tolist(),
            "seen": self._seen.tolist(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up a saved estimate of as many ranks."""
        self._mean = np.asarray(state["mean"], dtype=np.float64)
        self._variance = np.asarray(state["variance"], dtype=np.float64)
        self._seen = np.asarray(state["seen"], dtype=np.int64)
