"""The gradient noise scale: up to which batch size more samples still make a step better.

The gradient over b samples is the true gradient G plus noise of covariance Σ/b. The noise scale φ = trΣ/|G|²
is the batch at which both are of one size (McCandlish et al. 2018, arXiv 1812.06162): far below it twice the
batch is worth two steps, far above it hardly more than one.

It needs gradients of the same step over different numbers of samples, and a data-parallel group has them for
free: each part's own, g_i over b_i samples, and their mean g over all B. From

    A = Σ (b_i/B)·|g_i|²,   E[A] = |G|² + n·trΣ/B      (n parts)
    t = |g|²,               E[t] = |G|² + trΣ/B

follow estimates without bias, however unequal the parts are (weighting by b_i is what makes E[A] independent
of the split; with equal parts they are those of AdaptDL, which uses them for unequal ones too):

    trΣ = B·(A - t)/(n - 1),   |G|² = t - trΣ/B

One process alone takes its gradients of two consecutive steps for the two parts.

A single estimate is noisy and |G|² may come out negative, so both are smoothed, each on its own: the ratio of
means is close to unbiased where the mean of ratios is not. Both are properties of model, data and progress,
not of the group, so they stay valid when the group changes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# The weight of what was known, at each new estimate.
MEMORY = 0.95
# Below this many estimates nothing is decided by them.
ENOUGH = 8


@dataclass(frozen=True, kw_only=True)
class Gradients:
    """What was measured of the gradients of one step.

    Attributes:
        parts: Number n of parts with samples.
        rows: Samples B of all parts together.
        local: A, the mean square norm of the parts' gradients, each weighted by its samples.
        whole: t, the square norm of the gradient over all samples.
    """

    parts: int
    rows: int
    local: float
    whole: float


@dataclass(frozen=True, kw_only=True)
class Noise:
    """trΣ, the variance of one sample's gradient, and |G|², the square norm of the true gradient."""

    trace: float
    square: float

    @property
    def scale(self) -> float:
        """φ = trΣ/|G|², in samples; infinite when the gradient drowns in its noise."""
        trace, square = max(self.trace, 0.0), max(self.square, 0.0)
        if trace == 0:
            return 0.0
        return trace / square if square > 0 else math.inf


def estimate(gradients: Gradients) -> Noise:
    """Both quantities from one step, without bias; see above."""
    trace = gradients.rows * (gradients.local - gradients.whole) / (gradients.parts - 1)
    return Noise(trace=trace, square=gradients.whole - trace / gradients.rows)


class NoiseScale:
    """A running estimate. Plain IEEE arithmetic, so equal numbers give equal results on every machine."""

    def __init__(self) -> None:
        self._count = 0
        self._weight = self._trace = self._square = 0.0

    @property
    def value(self) -> Noise | None:
        """The smoothed estimate; None before the first."""
        if not self._count:
            return None
        # Started at zero, the sums are too small by the same factor as the weights.
        return Noise(trace=self._trace / self._weight, square=self._square / self._weight)

    @property
    def known(self) -> bool:
        """Whether there were enough estimates to decide by."""
        return self._count >= ENOUGH

    def observe(self, gradients: Gradients) -> None:
        """Take in one step; an overflow, as mixed precision has now and then, is passed over."""
        if gradients.parts < 2 or not (math.isfinite(gradients.local) and math.isfinite(gradients.whole)):
            return
        one = estimate(gradients)
        self._count += 1
        self._weight = MEMORY * self._weight + (1 - MEMORY)
        self._trace = MEMORY * self._trace + (1 - MEMORY) * one.trace
        self._square = MEMORY * self._square + (1 - MEMORY) * one.square

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers, for a checkpoint or another rank."""
        return {
            "count": self._count,
            "weight": self._weight,
            "trace": self._trace,
            "square": self._square,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up a saved state, of a group of any size."""
        self._count = state["count"]
        self._weight, self._trace, self._square = state["weight"], state["trace"], state["square"]
