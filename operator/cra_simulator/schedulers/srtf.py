"""Shortest remaining time first, at the size that each job's owner asked for (Schrage, Operations Research
1968).

Optimal on a single machine; with sizes fixed it is the usual oracle of cluster papers (Tiresias, NSDI'19,
section 2). The longer job is preempted where the shorter needs its GPUs; one that does not fit is passed
over.

Knows remaining work and speed at the requested size. Jobs that declare no end go last.
"""

from __future__ import annotations

import numpy as np

from cra_operator.controller.policies.rigid import first_fit, requested
from cra_operator.controller.policy import ClusterObservation, Decision


class Srtf:
    """The shortest remaining time."""

    def decide(self, seen: ClusterObservation) -> Decision:
        """See `Policy.decide`."""
        wanted = requested(seen)
        speed = seen.rate[np.arange(len(seen)), wanted]
        left = np.divide(seen.remaining, speed, out=np.full(len(seen), np.inf), where=speed > 0)
        # NaN, for no declared end, sorts last.
        return first_fit(seen, wanted, np.argsort(left, kind="stable").tolist())
