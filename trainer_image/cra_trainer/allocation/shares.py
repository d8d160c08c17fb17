"""From weights and capabilities to shares, and from shares to whole units.

With w = softmax(a) the source form is p_i = w_i·c_i / R. Shares that are handed out must sum to one, and that
form normalised is p = softmax(a + log c): a = 0 gives the split in proportion to capability, which is optimal
when cost is linear, so a score expresses only what capability does not.

Whole units come from the largest-remainder method inside bounds: the real-valued split is scaled so that it
sums to the total with every node between its bounds (water-filling), is rounded down, and the units left over
go to the largest remainders, ties to the lower index. Everything after the shares is plain IEEE arithmetic,
so equal shares give equal units on every machine.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def softmax(scores: ArrayLike) -> Floats:
    """Weights w_i = exp(a_i) / Σ_j exp(a_j) of the scores a; they sum to 1."""
    given = np.asarray(scores, dtype=np.float64)
    powers: Floats = np.exp(given - given.max())
    return np.asarray(powers / powers.sum())


def allocation(weights: ArrayLike, capability: ArrayLike, resource: float) -> Floats:
    """The source form p_i = w_i·c_i / R, not normalised: the part of the resource R that each node takes."""
    if resource <= 0:
        raise ValueError(f"resource: expected more than 0, got {resource}")
    return np.asarray(weights, dtype=np.float64) * np.asarray(capability, dtype=np.float64) / resource


def shares(scores: ArrayLike, capability: ArrayLike, *, lo: ArrayLike = 0.0, hi: ArrayLike = 1.0) -> Floats:
    """Shares p = softmax(a + log c), each between `lo` and `hi`, that sum to 1.

    Args:
        scores: Attention scores a, one per node.
        capability: Measured capability c > 0, one per node, in any common unit.
        lo: Smallest share, one for all or one per node.
        hi: Largest share, likewise.

    Raises:
        ValueError: A capability is not positive, or the bounds leave no split.
    """
    speed = np.asarray(capability, dtype=np.float64)
    if not (np.isfinite(speed).all() and (speed > 0).all()):
        raise ValueError(f"capability: expected finite numbers above 0, got {speed}")
    return fill(softmax(np.asarray(scores, dtype=np.float64) + np.log(speed)), 1.0, lo, hi)


def fill(p: ArrayLike, total: float, lo: ArrayLike, hi: ArrayLike) -> Floats:
    """Split `total` in proportion to `p` with every part in [lo, hi]: x_i = clip(λ·p_i, lo_i, hi_i), Σ x_i =
    total.

    λ is exact: the sum is piecewise linear in λ with kinks where a node meets a bound, so a binary search
    over the kinks finds the piece and one division the point on it.

    Raises:
        ValueError: `p` has a negative entry or none above 0, or no split fits the bounds.
    """
    given = np.asarray(p, dtype=np.float64)
    low = np.broadcast_to(np.asarray(lo, dtype=np.float64), given.shape)
    high = np.broadcast_to(np.asarray(hi, dtype=np.float64), given.shape)
    if given.ndim != 1 or not np.isfinite(given).all() or (given < 0).any() or not (given > 0).any():
        raise ValueError(f"p: expected a list of finite numbers of at least 0, not all 0, got {given}")
    if (low > high).any() or low.sum() > total * (1 + 1e-12) or high.sum() < total * (1 - 1e-12):
        raise ValueError(f"bounds: no split of {total} lies within [{low.sum()}, {high.sum()}]")
    # A node without weight takes what the others' upper bounds leave, and nothing before that.
    weight = np.maximum(given / given.max(), 1e-12)
    kinks = np.unique(np.concatenate((low / weight, high / weight)))
    first, last = 0, len(kinks) - 1
    while first < last:
        middle = (first + last) // 2
        if np.clip(kinks[middle] * weight, low, high).sum() < total:
            first = middle + 1
        else:
            last = middle
    # On the piece that ends at this kink, nodes at a bound stay there and the free ones share the rest.
    below = kinks[first - 1] if first else 0.0
    x: Floats = np.clip(kinks[first] * weight, low, high)
    free = (low / weight <= below) & (high / weight >= kinks[first])
    if free.any():
        rest = total - x[~free].sum()
        x = np.where(free, np.clip(rest / weight[free].sum() * weight, low, high), x)
    return x


def apportion(p: ArrayLike, total: int, lo: ArrayLike = 0, hi: ArrayLike | None = None) -> Ints:
    """Deal out `total` whole units in proportion to `p` inside bounds, by largest remainder.

    Args:
        p: Shares of at least 0; they need not sum to 1.
        total: Units to deal out; the result sums to exactly this.
        lo: Fewest units of a node, one for all or one per node.
        hi: Most units of a node, likewise; None means no limit.

    Raises:
        ValueError: As in `fill`.
    """
    lowest = np.broadcast_to(np.asarray(lo, dtype=np.int64), np.shape(p))
    highest = np.broadcast_to(np.asarray(total if hi is None else hi, dtype=np.int64), np.shape(p))
    exact = fill(p, float(total), lowest, np.minimum(highest, max(total, 0)))
    units: Ints = np.clip(np.floor(exact).astype(np.int64), lowest, highest)
    # Below a hundred-millionth a remainder is the noise of the division, and such nodes tie.
    remainders = np.round(exact - units, 8)
    missing = int(total - units.sum())
    for node in np.argsort(-remainders, kind="stable"):
        if missing <= 0:
            break
        if units[node] < highest[node]:
            units[node] += 1
            missing -= 1
    return units
