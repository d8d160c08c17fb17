"""Jobs of a fixed size in some order: what the schedulers that never resize have in common."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from cra_operator.controller.policy import ClusterObservation, Decision, Ints


def requested(seen: ClusterObservation) -> Ints:
    """The size that each job's owner asked for, as a column, [J].

    Where nothing was said it is the first size on which the job runs, and none for one that runs nowhere.
    """
    return np.where(seen.request > 0, seen.request, np.argmax(seen.rate > 0, axis=1))


def first_fit(
    seen: ClusterObservation, wanted: Ints, order: Iterable[int], *, strict: bool = False
) -> Decision:
    """Go through the jobs in order and give each its size if that is still free, on the type that it has or
    else the first.

    Args:
        seen: The cluster.
        wanted: The size of each job, as a column, [J]; its type is not binding.
        order: Rows of jobs, the most important first.
        strict: Whether the first job that does not fit stops all behind it.
    """
    order = list(order)
    free = seen.capacity.copy()
    choice = np.zeros(len(seen), dtype=np.int64)
    for j in order:
        gpus = seen.sizes.gpus[wanted[j]]
        fits = (seen.sizes.gpus == gpus) & (seen.rate[j] > 0) & (gpus <= free[seen.sizes.kind])
        if fits[seen.current[j]] and seen.current[j] > 0:
            choice[j] = seen.current[j]
        elif fits[wanted[j]]:
            choice[j] = wanted[j]
        elif fits.any():
            choice[j] = np.argmax(fits)
        elif strict:
            break
        free[seen.sizes.kind[choice[j]]] -= seen.sizes.gpus[choice[j]]
    return Decision(choice=choice, order=np.array(order, dtype=np.int64))
