"""How large the next global batch is, and what that does to the learning rate.

By default the batch is fixed: more GPUs make a step shorter, not another one. Between bounds it may adapt.
What is maximised then is Pollux's goodput (Qiao et al. 2021, OSDI), progress per second instead of samples
per second:

    goodput(B) = B / t(B) · (φ + B0) / (φ + B),   t(B) = s + q·B

with φ the gradient noise scale (`cra_trainer.noise`), B0 the batch that the learning rate is meant for, and t
fitted to measured steps: s is what a step costs whatever its size (latency, reduction, optimizer), q what a
sample costs. Its maximum has a closed form, B = √(φ·s/q): a batch pays as far as it hides fixed costs and
averages noise. φ grows while a model trains, and so does the batch.

The learning rate's factor at batch B follows `spec.training.learningRateRule`: 1 (fixed), B/B0 (linear),
√(B/B0) (sqrt), or AdaScale's gain (Johnson et al. 2020, arXiv 2007.05105), with σ² = trΣ/B0 and scale B/B0

    r = (trΣ/B0 + |G|²) / (trΣ/B + |G|²)

which is B/B0 while noise dominates and 1 when it is gone. An optimizer that divides by the root of the mean
square gradient gets √r instead (AdaptDL's AdamScale). One step with gain r is worth r steps at B0; their sum
is the training's scale-invariant progress.

Every rank decides for itself, from numbers that all ranks got from one reduction, with additions,
multiplications, divisions and roots only: IEEE rounds those alike everywhere, so ranks that saw the same
numbers hold the same state to the last bit, and no digest has to be compared.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from cra_trainer.config import Training
from cra_trainer.noise import Gradients, Noise, NoiseScale

# A new batch must promise this much more goodput, as in AdaptDL.
GAIN = 0.05
# Steps between two decisions, and steps of one size before its time is believed.
PATIENCE = 20
SEEN = 8
# Sizes whose times are remembered, and how far apart two must be to tell how a step's time splits.
SIZES = 8
APART = 1.2
# How far one change goes, so that the fit is asked only for what lies next to what was measured.
STRIDE = 2.0
# Gradients are measured at every 16th step or, when that costs more than this part of a step, less often: a
# batch that adapts is decided by them, a fixed one is only watched.
EVERY, RARELY = 16, 1024
COST, COST_WATCHED = 0.004, 0.001


class StepTime(NamedTuple):
    """t(B) = fixed + per_row·B, in seconds."""

    fixed: float
    per_row: float


def goodput(rows: int, *, base: int, noise: Noise, time: StepTime) -> float:
    """Useful samples per second with a global batch of `rows`: throughput times efficiency."""
    return rows / (time.fixed + time.per_row * rows) * efficiency(rows, base=base, noise=noise)


def efficiency(rows: int, *, base: int, noise: Noise) -> float:
    """(φ + B0) / (φ + B): what a sample in a batch of `rows` is worth beside one in a batch of `base`."""
    trace, square = max(noise.trace, 0.0), max(noise.square, 0.0)
    return (trace + base * square) / (trace + rows * square) if trace + square > 0 else 1.0


def best_batch(*, noise: Noise, time: StepTime, low: int, high: int) -> int:
    """The batch between the bounds with the largest goodput."""
    # B/((s+qB)(φ+B)) rises up to √(φ·s/q) and falls from there on, so the nearest bound is the best within.
    rising = max(noise.trace, 0.0) * time.fixed
    falling = max(noise.square, 0.0) * time.per_row
    if rising >= falling * high * high:
        return high
    return min(max(round(math.sqrt(rising / falling)), low), high)


def gain(rows: int, *, base: int, noise: Noise) -> float:
    """AdaScale's r: how many steps at the batch `base` one step over `rows` rows is worth.

    Between 1 and rows/base, which may be below 1.
    """
    trace, square = max(noise.trace, 0.0), max(noise.square, 0.0)
    if trace + square == 0:
        return 1.0
    return (trace / base + square) / (trace / rows + square)


class StepTimes:
    """Measured step times by batch size, and the line through them."""

    def __init__(self) -> None:
        # By size, the one last seen last: how often it was seen, and the running mean.
        self._sizes: dict[int, tuple[int, float]] = {}
        # The last line that two sizes gave; later ones may only move it as a whole.
        self._last: StepTime | None = None

    def observe(self, rows: int, seconds: float) -> None:
        """A step over `rows` rows took `seconds`."""
        count, mean = self._sizes.pop(rows, (-1, 0.0))
        if count >= 3:
            # A hiccup of the machine weighs no more than a step of twice the time.
            seconds = min(max(seconds, mean / 2), mean * 2)
        count += 1
        # The first step of a size allocates and tunes; it does not count.
        self._sizes[rows] = (count, mean + (seconds - mean) / min(count, PATIENCE) if count else 0.0)
        if len(self._sizes) > SIZES:
            del self._sizes[next(iter(self._sizes))]

    def fit(self) -> StepTime | None:
        """The line, by least squares; None before two different sizes have been seen often enough."""
        known = sorted((rows, *of) for rows, of in self._sizes.items() if of[0] >= SEEN)
        if not known:
            return None
        if known[-1][0] >= APART * known[0][0]:
            self._last = _line(known)
        elif self._last is not None:
            rows, _, mean = known[-1]
            factor = mean / (self._last.fixed + self._last.per_row * rows)
            self._last = StepTime(self._last.fixed * factor, self._last.per_row * factor)
        return self._last

    def resize(self, ratio: float) -> None:
        """The group got `ratio` times as many ranks: what is measured no longer holds, its shape nearly."""
        last = self.fit()
        self._sizes = {}
        self._last = last and StepTime(last.fixed, last.per_row / ratio)

    def state_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "sizes": [[rows, *of] for rows, of in self._sizes.items()],
            "last": self._last and [*self._last],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up a saved state."""
        self._sizes = {rows: (count, mean) for rows, count, mean in state["sizes"]}
        self._last = StepTime(*state["last"]) if state["last"] else None


def _line(known: list[tuple[int, int, float]]) -> StepTime:
    """Least squares through (rows, count, mean), with neither part below zero."""
    weights = [float(min(count, PATIENCE)) for _, count, _ in known]
    total = sum(weights)
    rows = sum(w * r for w, (r, _, _) in zip(weights, known, strict=True)) / total
    mean = sum(w * t for w, (_, _, t) in zip(weights, known, strict=True)) / total
    spread = sum(w * (r - rows) * (r - rows) for w, (r, _, _) in zip(weights, known, strict=True))
    slope = sum(w * (r - rows) * (t - mean) for w, (r, _, t) in zip(weights, known, strict=True)) / spread
    per_row = min(max(slope, 0.0), mean / rows)
    # Rounding may leave less than nothing.
    return StepTime(max(mean - per_row * rows, 0.0), per_row)


class Batching:
    """The global batch and the learning rate's factor of each step.

    Args:
        training: The job's settings.
        world_size: Number of ranks; each gets at least one row.

    Attributes:
        by_root: Whether the optimizer divides by the root of the mean square gradient, as Adam does.
        paired: Whether gradients are measured by two steps in a row, as one rank alone does.
        size: Rows of the next global batch, as far as the epoch has them.
        noise: The measured gradient noise.
        progress: Scale-invariant steps so far.
    """

    def __init__(self, training: Training, *, world_size: int) -> None:
        self._base, self._rule = training.batch_size, training.learning_rate_rule
        self._bounds = (
            training.batch_size if training.min_batch_size is None else training.min_batch_size,
            training.batch_size if training.max_batch_size is None else training.max_batch_size,
        )
        self._world_size = world_size
        self._times = StepTimes()
        self._steps = 0
        self._every = EVERY
        self._cost: float | None = None
        self.by_root = self.paired = False
        self.noise = NoiseScale()
        self.progress = 0.0
        self.size = self._within(training.batch_size)

    def due(self, step: int) -> bool:
        """Whether the gradients of this step are to be measured; the same on every rank."""
        # Two steps in a row where one rank has to compare its own.
        return step % self._every < (2 if self.paired or self._world_size == 1 else 1)

    def factor(self, rows: int) -> float:
        """What the learning rate is multiplied with in a step over `rows` rows.

        The tail of an epoch, where it is smaller than the batch would be, counts as no less than B0: a
        learning rate is not meant to follow it further down.
        """
        rows = max(rows, min(self.size, self._base))
        if self._rule == "fixed" or rows == self._base:
            return 1.0
        match self._rule:
            case "linear":
                return rows / self._base
            case "sqrt":
                return math.sqrt(rows / self._base)
            case _:
                r = self._gain(rows)
                return math.sqrt(r) if self.by_root else r

    def observe(
        self,
        *,
        rows: int,
        took: tuple[int, float] | None = None,
        gradients: Gradients | None = None,
        cost: float = 0.0,
    ) -> None:
        """Take in one step, with numbers that all ranks share; may change `size`.

        Args:
            rows: Rows of its global batch.
            took: Rows and seconds of the last step whose whole duration is known.
            gradients: What was measured of them, if they were.
            cost: Time to measure gradients once, in whole steps.
        """
        self._steps += 1
        self.progress += self._gain(rows)
        if took is not None and took[1] > 0:
            self._times.observe(*took)
        if gradients is not None:
            self.noise.observe(gradients)
            self._pace(cost)
        if self._steps >= PATIENCE and self.noise.known and self._adapts:
            self._decide()

    @property
    def _adapts(self) -> bool:
        return self._bounds[0] < self._bounds[1]

    @property
    def efficiency(self) -> float:
        """What a sample in a batch of the present size is worth; 1 while the noise is not known."""
        noise = self.noise.value
        if noise is None or not self.noise.known:
            return 1.0
        return efficiency(self.size, base=self._base, noise=noise)

    def _gain(self, rows: int) -> float:
        noise = self.noise.value
        return 1.0 if noise is None else gain(rows, base=self._base, noise=noise)

    def _pace(self, cost: float) -> None:
        """Measure as often as the costs allow."""
        # The first time everything is slow, and a hiccup later is not the rule.
        seen = self._cost
        self._cost = 0.0 if seen is None else cost if not seen else seen + 0.3 * (min(cost, 2 * seen) - seen)
        self._every = EVERY
        most = COST if self._adapts else COST_WATCHED
        while self._every < RARELY and self._cost > most * self._every:
            self._every *= 2

    def _decide(self) -> None:
        """Choose the next size, if it pays."""
        noise, time = self.noise.value, self._times.fit()
        assert noise is not None
        self._steps = 0
        if time is None:
            # One size says nothing of how the time splits: try the neighbour that the noise speaks for.
            up, down = self._within(round(self.size * STRIDE)), self._within(round(self.size / STRIDE))
            for size in (up, down) if noise.scale > self.size else (down, up):
                if max(size, self.size) >= APART * min(size, self.size):
                    self.size = size
                    break
            return
        low, high = self._within(self._bounds[0]), self._within(self._bounds[1])
        best = best_batch(noise=noise, time=time, low=low, high=high)
        now, then = (goodput(rows, base=self._base, noise=noise, time=time) for rows in (self.size, best))
        if then > (1 + GAIN) * now:
            self.size = min(max(best, math.ceil(self.size / STRIDE)), math.floor(self.size * STRIDE))

    def _within(self, rows: int) -> int:
        """The nearest size that bounds and ranks allow."""
        low, high = self._bounds
        if low == high:
            return low
        return max(min(max(rows, low), high), self._world_size)

    def resize(self, world_size: int) -> None:
        """The group changed; what was measured of the gradients stays."""
        if world_size == self._world_size:
            return
        self._times.resize(world_size / self._world_size)
        self._world_size = world_size
        self.size = self._within(self.size)
        self._steps = 0

    def state_dict(self) -> dict[str, Any]:
        """Plain values, for a checkpoint or another rank."""
        return {
            "size": self.size,
            "world_size": self._world_size,
            "steps": self._steps,
            "every": self._every,
            "cost": self._cost,
            "progress": self.progress,
            "noise": self.noise.state_dict(),
            "times": self._times.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up a saved state, of a group of any size; bounds are those of today's settings."""
        world_size = self._world_size
        self._world_size = state["world_size"]
        self._steps, self.progress = state["steps"], state["progress"]
        self._every, self._cost = state["every"], state["cost"]
        self.noise.load_state_dict(state["noise"])
        self._times.load_state_dict(state["times"])
        self.size = self._within(state["size"])
        self.resize(world_size)
