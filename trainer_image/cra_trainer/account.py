"""What a session tells of itself: its metrics while it runs, and its part of the termination message."""

from __future__ import annotations

from typing import Any

import numpy as np

from cra_trainer import progress
from cra_trainer.allocation.performance import errors, grade, performance
from cra_trainer.allocation.ranks import RankPlanner
from cra_trainer.allocation.shares import Floats
from cra_trainer.parallel import StepReport
from cra_trainer.state import Position
from cra_trainer.telemetry import Readings


class Account:
    """Follows the steps and reports of one rank's session.

    Attributes:
        size: Samples of the training set.
        rate: Samples per second of the group.
    """

    def __init__(self, readings: Readings, planner: RankPlanner, *, epochs: int) -> None:
        self._readings, self._planner, self._epochs = readings, planner, epochs
        self.size = 0
        self.rate = progress.Rate()
        self._loss: float | None = None
        self._performance: Floats | None = None

    def step(self, *, rows: int, total: int, seconds: float) -> None:
        """This rank trained `rows` of a global batch of `total` rows in `seconds`."""
        self.rate.add(total, seconds)
        self._readings.samples_total += rows
        self._readings.step_seconds = seconds

    def take(self, report: StepReport) -> None:
        """A step was reduced."""
        self._loss = report.loss
        self._readings.compute_seconds = report.compute_seconds
        self._readings.communication_seconds = report.communication_seconds

    def judge(self, sums: Floats, counts: Floats, *, best: float) -> None:
        """Each rank's performance P from its own results y_i = sum / count and the best possible one y*.

        Ranks that evaluated nothing have none (NaN).
        """
        results = np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0)
        known = ~np.isnan(results)
        if known.any():
            values = np.full_like(results, np.nan)
            values[known] = performance(errors(results[known], best))
            self._performance = values

    def publish(self, position: Position) -> None:
        """Expose where the training is; what is the group's own is rank 0's to say."""
        readings, rank = self._readings, self._readings.rank
        readings.share_ratio = float(self._shares[rank])
        readings.weight_ratio = float(self._planner.allocation.weights[rank])
        readings.capability_samples_per_second = float(self._planner.capability[rank]) or None
        if self._performance is not None and not np.isnan(self._performance[rank]):
            readings.performance = float(self._performance[rank])
        if rank == 0:
            now = self.progress(position)
            readings.progress_ratio, readings.step, readings.loss = now.ratio, now.step, now.loss
            readings.epoch, readings.epochs = now.epoch, now.epochs
            readings.eta_seconds, readings.samples_per_second = now.etaSeconds, now.samplesPerSecond

    def progress(self, position: Position) -> progress.Progress:
        """``status.progress``."""
        return progress.progress(
            position.cursor,
            epochs=self._epochs,
            size=self.size,
            rate=self.rate.value,
            loss=self._loss,
            done=position.finished,
        )

    def describe(self, position: Position) -> dict[str, Any]:
        """The result so far, for the termination message."""
        seconds = position.seconds
        return {
            "progress": self.progress(position).as_dict(),
            "metrics": dict(position.metrics),
            "samplesPerSecond": position.cursor.samples / seconds if seconds else None,
            "seconds": seconds,
            "ranks": self._ranks(),
        }

    def lines(self) -> list[str]:
        """One line per rank, for the log: share, weight, performance and speed."""
        return [
            f"rank {one['rank']}: share {one['share']:.3f}, weight {one['weight']:.3f}"
            + (f", performance {p:.3f} ({grade(p)})" if (p := one["performance"]) is not None else "")
            + (f", {speed:.0f} samples/s" if (speed := one["samplesPerSecond"]) else "")
            for one in self._ranks()
        ]

    @property
    def _shares(self) -> Floats:
        """The shares in whole rows, which is what the ranks really train."""
        rows = self._planner.rows(self._planner.batch_size)
        return np.asarray(rows / rows.sum())

    def _ranks(self) -> list[dict[str, Any]]:
        shares, weights = self._shares.round(6), self._planner.allocation.weights.round(6)
        capability = self._planner.capability.round(3)
        values = self._performance if self._performance is not None else np.full(len(shares), np.nan)
        return [
            {
                "rank": i,
                "share": float(shares[i]),
                "weight": float(weights[i]),
                "performance": None if np.isnan(values[i]) else round(float(values[i]), 6),
                "samplesPerSecond": float(capability[i]) or None,
            }
            for i in range(len(shares))
        ]
