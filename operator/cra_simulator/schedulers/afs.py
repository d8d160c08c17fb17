"""AFS: the next GPU to the job for which it pays to be served now (Hwang et al., *CoDDL/AFS*, NSDI'21).

Apathetic future share compares two jobs at a time (algorithm 1). Let a be the one that would end sooner with
what it has. The next GPU goes to b if its relative gain, over what it would then have, exceeds a's over what
a has:

    (p_b' - p_b) / p_b'  >  (p_a' - p_a) / p_a

because what shortens a is given to b afterwards: the sooner a ends, the less its efficiency weighs. Of two
jobs without GPUs the shorter goes first. p is goodput here, where the paper has throughput at a fixed batch.
Sizes have gaps, so gains count per GPU.

Knows goodput at each size and remaining work; jobs that declare no end count as the longest.
"""

from __future__ import annotations

import numpy as np

from cra_operator.controller.policy import ClusterObservation, Decision, Floats, Ints
from cra_simulator.compiled import kernel
from cra_simulator.schedulers.one_type import capacity_of


class Afs:
    """Pairwise marginal gains, on a cluster of one GPU type."""

    def decide(self, seen: ClusterObservation) -> Decision:
        """See `Policy.decide`."""
        remaining = np.nan_to_num(seen.remaining, nan=np.inf)
        return Decision(choice=_share(seen.rate, seen.sizes.gpus, seen.limit, remaining, capacity_of(seen)))


@kernel
def _share(rate: Floats, gpus: Ints, limit: Ints, remaining: Floats, capacity: int) -> Ints:
    """A size for each job, [J], by giving away one step after the other."""
    jobs, sizes = rate.shape
    choice = np.zeros(jobs, dtype=np.int64)
    left = np.empty(jobs)
    free = capacity
    for j in range(jobs):
        left[j] = remaining[j] / rate[j, 1]
    while True:
        first = -1
        for j in range(jobs):
            k = choice[j] + 1
            if (
                k == sizes
                or gpus[k] > limit[j]
                or gpus[k] - gpus[k - 1] > free
                or rate[j, k] <= rate[j, k - 1]
            ):
                continue
            if first < 0:
                first = j
                continue
            a, b = (first, j) if left[first] <= left[j] else (j, first)
            if choice[a] == 0:
                # What it gains is without bound, so long as a job without GPUs counts as the shorter one.
                first = a
                continue
            at_a, at_b = choice[a], choice[b]
            gain_a = (rate[a, at_a + 1] - rate[a, at_a]) / (gpus[at_a + 1] - gpus[at_a]) / rate[a, at_a]
            gain_b = (rate[b, at_b + 1] - rate[b, at_b]) / (gpus[at_b + 1] - gpus[at_b]) / rate[b, at_b + 1]
            first = b if gain_b > gain_a else a
        if first < 0:
            return choice
        choice[first] += 1
        free -= gpus[choice[first]] - gpus[choice[first] - 1]
        left[first] = remaining[first] / rate[first, choice[first]]
