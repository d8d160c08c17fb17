"""How well each node did, and what that changes in the allocation.

ε_i = ‖y_i - y*‖ is the distance of a node's result from the best possible one, and P_i = (1 - ε_i) / max_j
ε_j. P has no upper end: where every node is nearly right it grows as 1 / max ε, so the thresholds single out
only nodes that are far off (P < 0.9 needs ε > 0.53 when the node is the worst one, P < 0.5 needs ε > 2/3).

A node between the thresholds, or below both, gets its attention moved towards u_i·`BOUND`, with its urgency
u_i = (good - P_i) / (good - poor) kept within 0 and 1. So a good node that has been good is left alone, one
that has become good gives back what it was given, no weight changes where all nodes are equally urgent, and
none is ever more than exp(`BOUND`) times another one for its performance.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from cra_trainer.allocation.shares import Floats

Grade = Literal["good", "fair", "poor"]

GOOD, POOR = 0.9, 0.5
# A node that is poor for long counts at most four times what a good one does.
BOUND = float(np.log(4))
# Part of the way that attention goes at each validation.
RATE = 0.3


def errors(results: ArrayLike, best: ArrayLike) -> Floats:
    """ε_i = ‖y_i - y*‖: absolute for one number per node, Euclidean for a vector (one row per node)."""
    distance: Floats = np.asarray(results, dtype=np.float64) - np.asarray(best, dtype=np.float64)
    return np.abs(distance) if distance.ndim == 1 else np.asarray(np.linalg.norm(distance, axis=1))


def performance(error: ArrayLike) -> Floats:
    """P_i = (1 - ε_i) / max_j ε_j; 1 for every node when no node has an error."""
    distance = np.asarray(error, dtype=np.float64)
    worst = distance.max(initial=0.0)
    return np.ones_like(distance) if worst == 0 else (1.0 - distance) / worst


def grade(value: float, *, good: float = GOOD, poor: float = POOR) -> Grade:
    """A node at or above `good` keeps its allocation, one below `poor` is the first to have it adjusted."""
    if value >= good:
        return "good"
    return "poor" if value < poor else "fair"


def adjust(attention: ArrayLike, performance: ArrayLike, *, good: float = GOOD, poor: float = POOR) -> Floats:
    """Every node's attention after a validation: a_i <- a_i + RATE·(BOUND·u_i - a_i).

    Args:
        attention: The attention before, [n].
        performance: P of each node, [n].
        good: Threshold from which on a node's urgency is 0.
        poor: Threshold below `good`, up to which it is 1.
    """
    before = np.asarray(attention, dtype=np.float64)
    urgency = np.clip((good - np.asarray(performance)) / (good - poor), 0.0, 1.0)
    return np.asarray(before + RATE * (BOUND * urgency - before))
