"""What a script reports of its model, merged over the ranks.

A measure is a number, which is the group's as rank 0 has it, or a pair (sum, count) over a rank's own
samples. Pairs are merged exactly, however unequal the ranks' parts are, and say how each rank did: its
performance P.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from cra_trainer.allocation.performance import errors, performance
from cra_trainer.allocation.shares import Floats
from cra_trainer.config import Training
from cra_trainer.progress import better

Measure = float | tuple[float, float]


def flatten(measures: Mapping[str, Measure]) -> list[float]:
    """A rank's measures as the (sum, count) of each, one after another; a number counts once."""
    return [float(x) for m in measures.values() for x in (m if isinstance(m, tuple) else (m, 1.0))]


def merge(measures: Mapping[str, Measure], table: NDArray[np.float64]) -> dict[str, float]:
    """The group's value of each measure.

    Args:
        measures: This rank's measures, for their names and kinds.
        table: `flatten` of every rank, [ranks, 2·measures].
    """
    merged = {}
    for i, (name, measure) in enumerate(measures.items()):
        sums, counts = table[:, 2 * i], table[:, 2 * i + 1]
        merged[name] = float(sums.sum() / max(counts.sum(), 1) if isinstance(measure, tuple) else sums[0])
    return merged


def performances(
    measures: Mapping[str, Measure], table: NDArray[np.float64], training: Training
) -> Floats | None:
    """Each rank's performance P, [ranks], NaN for a rank that evaluated nothing; None if no measure is a
    pair.

    Compared is the target metric, or else the first pair. A rank's result is y_i = sum / count; the best one
    possible, y*, is 0 for what should be small (a loss, an error rate), and 1 for what should be large (an
    accuracy).
    """
    name = _compared(measures, training)
    if name is None:
        return None
    i = list(measures).index(name)
    sums, counts = table[:, 2 * i], table[:, 2 * i + 1]
    results = np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0)
    known = ~np.isnan(results)
    results[known] = performance(errors(results[known], _best(name, training)))
    return results


def distances(names: Sequence[str], merged: Mapping[str, float], training: Training) -> Floats | None:
    """ε of each of the named measures, as the whole group has it; None unless all of them were reported."""
    if not names or not merged.keys() >= set(names):
        return None
    return np.array([float(errors([merged[name]], _best(name, training))[0]) for name in names])


def _best(name: str, training: Training) -> float:
    return 0.0 if better(name, training) == "min" else 1.0


def _compared(measures: Mapping[str, Measure], training: Training) -> str | None:
    pairs: Sequence[str] = [name for name, measure in measures.items() if isinstance(measure, tuple)]
    if training.target and training.target.name in pairs:
        return training.target.name
    return next(iter(pairs), None)
