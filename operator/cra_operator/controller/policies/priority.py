"""Priority: the more important job first, at the size that its owner asked for.

A job is preempted only where one of higher priority needs its GPUs, as Kubernetes does with priority classes.
Equals go in order of submission; one that does not fit is passed over.
"""

from __future__ import annotations

import numpy as np

from cra_operator.controller.policies.rigid import first_fit, requested
from cra_operator.controller.policy import ClusterObservation, Decision


class Priority:
    """Declared importance."""

    def decide(self, seen: ClusterObservation) -> Decision:
        """See `Policy.decide`."""
        order = np.lexsort((seen.ids, seen.current == 0, -seen.priority))
        return first_fit(seen, requested(seen), order.tolist())
