"""How far the training is, how fast, and whether its goal is reached: all pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from cra_trainer.config import Mode, Training
from cra_trainer.data import Cursor


@dataclass(frozen=True, kw_only=True)
class Goal:
    """What the reports so far say about ending before the last epoch.

    Attributes:
        best: Best value of the watched metric.
        stale: Reports in a row that did not improve on it.
        reason: Why training is over; empty while it is not.
    """

    best: float | None = None
    stale: int = 0
    reason: str = ""


def better(name: str, training: Training) -> Mode:
    """Whether more or less of a metric is better: as the target says, else less where the name says loss or
    error.
    """
    if training.target and training.target.name == name:
        return training.target.mode
    return "min" if "loss" in name or "error" in name else "max"


def judge(goal: Goal, metrics: Mapping[str, float], training: Training) -> Goal:
    """The goal after one more report.

    Watched is the target metric, or else the first one reported.
    """
    name = training.target.name if training.target else next(iter(metrics), "")
    if name not in metrics:
        return goal
    value = metrics[name]
    sign = 1.0 if better(name, training) == "max" else -1.0
    if training.target and sign * value >= sign * training.target.value:
        return Goal(best=value, reason=f"{name} {value:.4g} reached the target {training.target.value:.4g}")
    stopping = training.early_stopping
    margin = stopping.min_delta if stopping else 0.0
    if goal.best is None or sign * value > sign * goal.best + margin:
        return Goal(best=value)
    stale = goal.stale + 1
    if stopping and stale >= stopping.patience:
        return Goal(
            best=goal.best,
            stale=stale,
            reason=f"{name} has not improved on {goal.best:.4g} in {stale} reports",
        )
    return Goal(best=goal.best, stale=stale)


@dataclass(frozen=True, kw_only=True)
class Progress:
    """``status.progress``, with the CRD's names."""

    epoch: int
    epochs: int
    step: int
    ratio: float
    samplesPerSecond: float | None  # noqa: N815
    loss: float | None
    etaSeconds: float | None  # noqa: N815
    samples: int
    scaleInvariantSteps: float  # noqa: N815

    def as_dict(self) -> dict[str, Any]:
        """As JSON has it, without what is not known."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def progress(
    cursor: Cursor,
    *,
    epochs: int,
    size: int,
    rate: float | None,
    loss: float | None,
    worth: float,
    done: bool = False,
) -> Progress:
    """Where `cursor` stands in `epochs` epochs over a data set of `size` samples, at `rate` samples per
    second, after steps that were `worth` so many at the job's own batch. While the size is not known (0), an
    epoch counts when it is over.
    """
    ratio = 1.0 if done else min(1.0, (cursor.epoch + (cursor.index / size if size else 0)) / epochs)
    return Progress(
        epoch=min(cursor.epoch, epochs),
        epochs=epochs,
        step=cursor.step,
        ratio=ratio,
        samplesPerSecond=rate,
        loss=loss,
        etaSeconds=(1 - ratio) * epochs * size / rate if rate and size else None,
        samples=cursor.samples,
        scaleInvariantSteps=worth,
    )


class Rate:
    """Samples per second over about the last seconds: an exponential mean over time, not over steps."""

    SECONDS = 5.0

    def __init__(self) -> None:
        self._sums = (0.0, 0.0)

    def add(self, samples: int, seconds: float) -> None:
        """A step over `samples` samples took `seconds`."""
        keep = math.exp(-seconds / self.SECONDS)
        # Both at once: a scrape reads them from another thread.
        self._sums = (keep * self._sums[0] + samples, keep * self._sums[1] + seconds)

    @property
    def value(self) -> float | None:
        """Samples per second; None before the first step."""
        samples, seconds = self._sums
        return samples / seconds if seconds > 0 else None
