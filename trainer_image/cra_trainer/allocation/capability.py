"""What each rank was measured to do: samples per second, and how steadily.

Each step brings one time per rank. The speed is an exponential mean of log(rows / seconds), in which a factor
up and the same factor down weigh alike. A mean that smooths noise is slow to see a change, so a change is
looked for: when a rank deviates to the same side by more than a tenth and three standard deviations, three
steps in a row, its mean starts again from those steps (the ten-per-cent rule of fail-slow detection, arXiv
2410.12588).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cra_trainer.allocation.shares import Floats, Ints

SMOOTHING = 0.2
CHANGE = 0.1
RUN = 3


class CapabilityTracker:
    """Running estimate of every rank's speed, computed alike on every rank from the same times."""

    def __init__(self, world_size: int) -> None:
        self._mean: Floats = np.zeros(world_size)
        self._variance: Floats = np.zeros(world_size)
        self._seen: Ints = np.zeros(world_size, dtype=np.int64)
        self._run: Ints = np.zeros(world_size, dtype=np.int64)
        self._run_sum: Floats = np.zeros(world_size)

    @property
    def known(self) -> bool:
        """Whether every rank has been measured."""
        return bool((self._seen > 0).all())

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
        return new

    def update(self, rows: Ints, seconds: Floats) -> None:
        """Take in one step: the rows that each rank trained and the seconds it computed; ranks without rows
        are left.
        """
        measured = (rows > 0) & (seconds > 0)
        log_speed = np.log(np.where(measured, rows, 1) / np.where(measured, seconds, 1.0))
        first = measured & (self._seen == 0)
        self._mean = np.where(first, log_speed, self._mean)
        deviation = np.where(measured, log_speed - self._mean, 0.0)
        limit = np.maximum(CHANGE, 3 * self.variation)
        side = np.where(np.abs(deviation) > limit, np.sign(deviation), 0).astype(np.int64)
        goes_on = (side != 0) & (side == np.sign(self._run))
        run_sum = np.where(goes_on, self._run_sum, 0.0) + log_speed
        run = np.where(goes_on, self._run, 0) + side
        self._run, self._run_sum = (
            np.where(measured, run, self._run),
            np.where(measured, run_sum, self._run_sum),
        )
        changed = np.abs(self._run) >= RUN
        # Until it is decided whether an odd step is noise or a change, it moves the mean like any other, but
        # it widens the limit only as far as the limit itself: one true change must not hide its own next
        # steps.
        self._mean = np.where(changed, self._run_sum / RUN, self._mean + SMOOTHING * deviation)
        spread = np.minimum(np.abs(deviation), limit) ** 2
        self._variance = np.where(
            measured & ~first, (1 - SMOOTHING) * self._variance + SMOOTHING * spread, self._variance
        )
        self._run = np.where(changed, 0, self._run)
        self._seen = self._seen + measured

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
