"""Whether a cut waits before a block that could be frozen: a gate whose parameters are tuned by reward.

A(x) = sigmoid(w·x + b) is the probability of waiting. x is the block's surplus of attention: log(p / c), with
p its part of the attention and c its part of the cost. At first w = `SHARPNESS` and b = 0, so waiting is
likely where the rule without a gate waits (p > c), and the less clear the case, the more open the draw.

The reward of a choice is the gain per second that followed: the fall of the loss, as a part of it, per second
that the slowest rank computed, fitted over all steps until the next decision. Gains fall while a model
learns, so what counts is the change from the decision before, (g - g')/(|g| + |g'|), against the mean change
of the choices so far: by that advantage A,

    (w, b) <- (w, b) + RATE·A·(waited - A(x))·(x, 1),

which is REINFORCE (Williams 1992). The learner of the ranks, which asks what other shares would have cost the
steps it measured, cannot serve here: of a cut only the gain of the one that was chosen is known.

Everything follows from numbers that all ranks share and from the job's seed, so all choose alike.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from typing import Any

from cra_trainer.data import mix

SHARPNESS = 4.0
RATE = 1.0
# No choice is ever certain, for what is never tried cannot be learned.
LEAST = 0.05
# A block of hardly any cost may have any surplus.
LARGEST = 2.0
# Steps that make a gain.
FEWEST = 3


class Gain:
    """The fall of the loss per second, as a part of the loss: the least squares line through the steps."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Begin anew."""
        self._n, self._t, self._now, self._l, self._tt, self._tl = 0, 0.0, 0.0, 0.0, 0.0, 0.0

    def observe(self, loss: float, seconds: float) -> None:
        """A step was computed in so many seconds, and had this loss."""
        self._now += seconds
        self._n += 1
        self._t += self._now
        self._l += loss
        self._tt += self._now * self._now
        self._tl += self._now * loss

    @property
    def value(self) -> float | None:
        """The gain per second; None where there were too few steps to tell."""
        spread = self._n * self._tt - self._t * self._t
        if self._n < FEWEST or spread <= 0 or self._l == 0:
            return None
        slope = (self._n * self._tl - self._t * self._l) / spread
        return -slope / abs(self._l / self._n)

    def state_dict(self) -> list[float]:
        return [self._n, self._t, self._now, self._l, self._tt, self._tl]

    def load_state_dict(self, state: list[float]) -> None:
        _, self._t, self._now, self._l, self._tt, self._tl = state
        self._n = int(state[0])


class WaitGate:
    """Draws whether to wait, and learns from the gain that follows.

    Args:
        seed: Of the draws; the same on every rank.

    Attributes:
        weight: w.
        bias: b.
        choices: Draws so far.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self.weight, self.bias, self.choices = SHARPNESS, 0.0, 0
        self._gain = Gain()
        # Of the period before the last decision.
        self._before: float | None = None
        # Surplus, probability of waiting and whether it waited, of a choice whose reward is still to come.
        self._pending: tuple[float, float, bool] | None = None
        self._rewarded, self._mean = 0, 0.0

    def probability(self, surplus: float) -> float:
        """A(x), of waiting."""
        x = min(max(surplus, -LARGEST), LARGEST)
        return min(max(1 / (1 + math.exp(-self.weight * x - self.bias)), LEAST), 1 - LEAST)

    def wait(self, surplus: float) -> bool:
        """Choose, and remember it for its reward."""
        self.choices += 1
        p = self.probability(surplus)
        waited = random.Random(mix(self._seed, self.choices)).random() < p
        self._pending = surplus, p, waited
        return waited

    def observe(self, measured: tuple[float, float] | None) -> None:
        """Take in a step's loss and seconds. None is the first of a group: gains of another one, which may be
        faster or slower, are not compared with.
        """
        if measured is None:
            self._gain.forget()
            self._pending = self._before = None
        elif math.isfinite(measured[0]):
            self._gain.observe(*measured)

    def learn(self) -> None:
        """A decision is due: reward the choice of the one before, if there was one."""
        gain, before = self._gain.value, self._before
        if self._pending is not None and gain is not None and before is not None:
            self._reward((gain - before) / ((abs(gain) + abs(before)) or 1.0))
        self._gain.forget()
        self._pending, self._before = None, gain

    def _reward(self, change: float) -> None:
        assert self._pending is not None
        surplus, p, waited = self._pending
        moved = RATE * (change - self._mean) * (waited - p)
        self.weight += moved * min(max(surplus, -LARGEST), LARGEST)
        self.bias += moved
        self._rewarded += 1
        self._mean += (change - self._mean) / self._rewarded

    def explain(self) -> dict[str, Any]:
        """The parameters, and how many choices were made and rewarded."""
        return {
            "weight": round(self.weight, 4),
            "bias": round(self.bias, 4),
            "choices": self.choices,
            "rewarded": self._rewarded,
        }

    def state_dict(self) -> dict[str, Any]:
        return {
            "weight": self.weight,
            "bias": self.bias,
            "choices": self.choices,
            "rewarded": self._rewarded,
            "mean": self._mean,
            "before": self._before,
            "pending": None if self._pending is None else list(self._pending),
            "gain": self._gain.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.weight, self.bias, self.choices = state["weight"], state["bias"], state["choices"]
        self._rewarded, self._mean, self._before = state["rewarded"], state["mean"], state["before"]
        self._pending = None if state["pending"] is None else tuple(state["pending"])
        self._gain.load_state_dict(state["gain"])
