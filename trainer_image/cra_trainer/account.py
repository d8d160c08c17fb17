"""What a session tells of itself: its metrics while it runs, and its part of the termination message."""

from __future__ import annotations

import logging
import time
from dataclasses import asdict
from typing import Any

import numpy as np

from cra_trainer import progress
from cra_trainer.allocation.performance import grade
from cra_trainer.allocation.ranks import RankPlanner
from cra_trainer.allocation.shares import Floats
from cra_trainer.batching import Batching
from cra_trainer.evaluation import scores
from cra_trainer.report import StepReport
from cra_trainer.state import Position
from cra_trainer.telemetry import Readings

log = logging.getLogger("cra_trainer")


class Account:
    """Follows the steps and reports of one rank's session.

    Attributes:
        size: Samples of the training set.
        rate: Samples per second of the group; its first step is left out, and once its shares have settled
            all steps before.
        performance: Each rank's performance P at the last report, NaN where a rank has none.
        finished: Whether the script has ended the training.
    """

    def __init__(self, readings: Readings, planner: RankPlanner, batching: Batching, *, epochs: int) -> None:
        self._readings, self._planner, self._batching = readings, planner, batching
        self._epochs = epochs
        self.size = 0
        self._start_rate()
        # The last step of this group; and the loss of the last of the one before.
        self._report: StepReport | None = None
        self._earlier_loss: float | None = None
        self._factor: float | None = None
        self.performance: Floats | None = None
        self.finished = False
        # The size of the group before this one, until its first step is done; and when the last step was.
        self._before: int | None = None
        self._stragglers: frozenset[int] = frozenset()
        self._ended: float | None = None

    def enter(self, rank: int, world_size: int, generation: int) -> None:
        """A group begins in which this process has this rank."""
        readings = self._readings
        if self._before is None and self._ended is not None:
            self._before = readings.world_size
        readings.rank, readings.world_size, readings.generation = rank, world_size, generation
        # What another group reached says nothing of this one.
        self._start_rate()
        self.performance = None
        self._stragglers, self._earlier_loss, self._report = frozenset(), self.loss, None

    def _start_rate(self) -> None:
        self.rate = progress.Rate()
        self._first = True
        self._readings.settled = False

    def step(self, *, rows: int, total: int, seconds: float, number: int, factor: float) -> None:
        """This rank trained `rows` of a global batch of `total` rows in `seconds`, with so many times the
        learning rate: step `number` is done.
        """
        if self._first:  # it also makes the group's buffers and connections
            self._first = False
        else:
            self._count(total, seconds)
        self._factor = factor
        self._readings.samples_total += rows
        before, self._readings.step_seconds = self._readings.step_seconds, seconds
        now = time.perf_counter()
        if self._before is not None and self._ended is not None:
            # A step is no pause; but what the first one takes longer than the last of the group before is.
            self._note_pause(max(0.0, now - self._ended - min(seconds, before or seconds)), number)
        self._ended = now

    def _count(self, total: int, seconds: float) -> None:
        # The first step at shares that have settled begins the count anew.
        if self._planner.settled and not self._readings.settled:
            self.rate, self._readings.settled = progress.Rate(), True
        self.rate.add(total, seconds)

    def _note_pause(self, seconds: float, number: int) -> None:
        readings, before = self._readings, self._before
        readings.pause_seconds, self._before = seconds, None
        readings.resizes_total += 1
        if readings.rank == 0:
            ranks = "1 rank" if readings.world_size == 1 else f"{readings.world_size} ranks"
            log.info("resized from %d to %s at step %d: paused %.2f s", before, ranks, number, seconds)

    def take(self, report: StepReport) -> None:
        """A step was reduced."""
        self._report = report
        self._readings.compute_seconds = report.compute_seconds
        self._readings.communication_seconds = report.communication_seconds

    @property
    def loss(self) -> float | None:
        """The global mean loss of the last step."""
        return self._earlier_loss if self._report is None else self._report.loss

    @property
    def measured(self) -> tuple[float, float] | None:
        """The global mean loss of this group's last step, and the seconds that its slowest rank computed: the
        same on every rank.
        """
        return None if self._report is None else (self._report.loss, float(self._report.seconds.max()))

    def note_stragglers(self) -> None:
        """The ranks were measured anew."""
        slow = frozenset(np.flatnonzero(self._planner.stragglers).tolist())
        if slow != self._stragglers:
            self._name_stragglers(slow)

    def _name_stragglers(self, slow: frozenset[int]) -> None:
        before, self._stragglers = self._stragglers, slow
        if self._readings.rank == 0:
            for rank in sorted(slow - before):
                log.warning("rank %d is slow for good: %.0f samples/s", rank, self._planner.capability[rank])
            for rank in sorted(before - slow):
                log.info("rank %d is no longer slow", rank)

    def publish(self, position: Position) -> None:
        """Expose where the training is; what is the group's own is rank 0's to say."""
        readings, rank = self._readings, self._readings.rank
        readings.share_ratio = float(self._shares[rank])
        readings.weight_ratio = float(self._planner.allocation.weights[rank])
        readings.straggler = float(self._planner.stragglers[rank])
        report = self._report
        if report is not None:
            readings.memory_headroom_ratio = float(report.room[rank])
        readings.capability_samples_per_second = float(self._planner.capability[rank]) or None
        if self.performance is not None and not np.isnan(self.performance[rank]):
            readings.performance = float(self.performance[rank])
        if rank == 0:
            now = self.progress(position)
            readings.progress_ratio, readings.step, readings.loss = now.ratio, now.step, now.loss
            readings.epoch, readings.epochs, readings.trained_samples = now.epoch, now.epochs, now.samples
            readings.eta_seconds, readings.samples_per_second = now.etaSeconds, now.samplesPerSecond
            readings.batch_size = self._batching.size
            readings.learning_rate_factor = self._factor
            readings.scale_invariant_steps = now.scaleInvariantSteps
            if self.rate.value is not None:
                readings.goodput_samples_per_second = self.rate.value * self._batching.efficiency
            if self._batching.noise.known and self._batching.noise.value is not None:
                readings.noise_scale = self._batching.noise.value.scale

    def progress(self, position: Position) -> progress.Progress:
        """``status.progress``."""
        return progress.progress(
            position.cursor,
            epochs=self._epochs,
            size=self.size,
            rate=self.rate.value,
            loss=self.loss,
            worth=self._batching.progress,
            done=self.finished,
        )

    def curves(self) -> dict[str, float]:
        """What to draw of the step that was taken."""
        curves = {"train/batch_size": float(self._batching.size), "train/ranks": float(len(self._shares))}
        if (loss := self.loss) is not None:
            curves["train/loss"] = loss
        if self.rate.value is not None:
            curves["train/samples_per_second"] = self.rate.value
        # More curves than these nobody tells apart.
        return curves | {f"share/rank_{i}": float(share) for i, share in enumerate(self._shares[:16])}

    def describe(self, position: Position) -> dict[str, Any]:
        """The result so far, for the termination message."""
        seconds = position.seconds
        told = {
            "progress": self.progress(position).as_dict(),
            "metrics": dict(position.metrics),
            "seconds": seconds,
            "ranks": self._ranks(),
        }
        if position.classes:
            told["classes"] = [
                {"name": name, **{key: round(value, 4) for key, value in asdict(score).items()}}
                for name, score in scores(position.classes).items()
            ]
        return {**told, "samplesPerSecond": position.cursor.samples / seconds} if seconds else told

    def lines(self) -> list[str]:
        """One line per rank, for the log: share, weight, performance and speed."""
        lines = []
        for one in self._ranks():
            line = f"rank {one['rank']}: share {one['share']:.3f}, weight {one['weight']:.3f}"
            if "performance" in one:
                line += f", performance {one['performance']:.3g} ({grade(one['performance'])})"
            if "samplesPerSecond" in one:
                line += f", {one['samplesPerSecond']:.0f} samples/s"
            lines.append(line)
        return lines

    @property
    def _shares(self) -> Floats:
        """The shares in whole rows, which is what the ranks really train."""
        rows = self._planner.rows(self._planner.batch_size)
        return np.asarray(rows / rows.sum())

    def _ranks(self) -> list[dict[str, Any]]:
        """What is known of each rank."""
        n = len(self._shares)
        columns = {
            "share": self._shares,
            "weight": self._planner.allocation.weights,
            "performance": np.full(n, np.nan) if self.performance is None else self.performance,
            "samplesPerSecond": np.where(self._planner.capability > 0, self._planner.capability, np.nan),
        }
        return [
            {"rank": i}
            | {
                name: round(float(values[i]), 6)
                for name, values in columns.items()
                if not np.isnan(values[i])
            }
            for i in range(n)
        ]
