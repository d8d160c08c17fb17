"""How well each node did, and which nodes deserve another allocation.

ε_i = ‖y_i - y*‖ is the distance of a node's result from the best possible one, and P_i = (1 - ε_i) / max_j
ε_j. P has no upper end: where every node is nearly right it grows as 1 / max ε, so the thresholds single out
only nodes that are far off (P < 0.5 needs ε > 2/3 when the node is the worst one).
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from cra_trainer.allocation.shares import Floats

Grade = Literal["good", "fair", "poor"]


def errors(results: ArrayLike, best: ArrayLike) -> Floats:
    """ε_i = ‖y_i - y*‖: absolute for one number per node, Euclidean for a vector (one row per node)."""
    distance: Floats = np.asarray(results, dtype=np.float64) - np.asarray(best, dtype=np.float64)
    return np.abs(distance) if distance.ndim == 1 else np.asarray(np.linalg.norm(distance, axis=1))


def performance(error: ArrayLike) -> Floats:
    """P_i = (1 - ε_i) / max_j ε_j; 1 for every node when no node has an error."""
    distance = np.asarray(error, dtype=np.float64)
    worst = distance.max(initial=0.0)
    return np.ones_like(distance) if worst == 0 else (1.0 - distance) / worst


def grade(value: float, *, good: float = 0.9, poor: float = 0.5) -> Grade:
    """A node at or above `good` keeps its allocation, one below `poor` is the first to have it adjusted."""
    if value >= good:
        return "good"
    return "poor" if value < poor else "fair"
