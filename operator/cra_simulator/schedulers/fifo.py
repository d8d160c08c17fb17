"""First in, first out: jobs start in order of submission at the size that their owner asked for.

Strict: the first job that does not fit holds back all behind it. Nobody is preempted. Knows nothing of the
jobs but their requests.
"""

from __future__ import annotations

from cra_operator.controller.policies.rigid import first_fit, requested
from cra_operator.controller.policy import ClusterObservation, Decision


class Fifo:
    """A strict queue."""

    def decide(self, seen: ClusterObservation) -> Decision:
        """See `Policy.decide`."""
        return first_fit(seen, requested(seen), range(len(seen)), strict=True)
