"""Tiresias: least attained service first, in two queues (Gu et al., NSDI'19), with the jobs' tuned sizes.

Discretised two-dimensional least attained service (section 4.3): a job begins in the first queue and moves to
the second once it has held 16 GPU-hours; the first goes before the second, and each is first come, first
served. A job that does not fit is passed over, one that no longer fits is preempted. Threshold and order are
those that the Pollux artifact compares with (petuum/adaptdl, branch osdi21-artifact, simulator/tiresias.py).

Knows the GPU time that a job has had. Knows neither speed nor remaining work.
"""

from __future__ import annotations

from cra_operator.controller.policies.rigid import first_fit, requested
from cra_operator.controller.policy import ClusterObservation, Decision

DEMOTION_GPU_SECONDS = 16 * 3600.0


class Tiresias:
    """Two queues by attained service."""

    def __init__(self) -> None:
        self._demoted: list[int] = []

    def decide(self, seen: ClusterObservation) -> Decision:
        """See `Policy.decide`."""
        row_of = {int(job): row for row, job in enumerate(seen.ids)}
        queued = [row_of[job] for job in self._demoted if job in row_of]
        spent = set(queued)
        served = (seen.attained >= DEMOTION_GPU_SECONDS) & (seen.current > 0)
        queued += [row for row in served.nonzero()[0].tolist() if row not in spent]
        self._demoted = [int(seen.ids[row]) for row in queued]
        spent = set(queued)
        fresh = [row for row in range(len(seen)) if row not in spent]
        return first_fit(seen, requested(seen), fresh + queued)
