"""Round robin: jobs take turns of equal length at the size that their owner asked for.

As the time-slicing of Gandiva (Xiao et al., OSDI'18, section 4.1), without its packing and migration: whoever
has had a turn goes to the end of the line; a turn ends early for nobody.
"""

from __future__ import annotations

from cra_operator.controller.policies.rigid import first_fit, requested
from cra_operator.controller.policy import ClusterObservation, Decision


class RoundRobin:
    """A rotating line.

    Args:
        turn_seconds: How long a turn is; the restarts that it costs should be short beside it.
    """

    def __init__(self, *, turn_seconds: float = 600.0) -> None:
        self._turn = turn_seconds
        self._line: list[int] = []
        self._until: dict[int, float] = {}

    def decide(self, seen: ClusterObservation) -> Decision:
        """See `Policy.decide`."""
        row_of = {int(job): row for row, job in enumerate(seen.ids)}
        line = [job for job in self._line if job in row_of]
        known = set(line)
        line += [job for job in row_of if job not in known]
        running = {job for job in line if seen.current[row_of[job]] > 0}
        # A job that somebody else started, as before a restart of the operator, begins its turn now.
        self._until = {job: self._until.get(job, seen.time + self._turn) for job in running}
        over = [job for job in line if job in running and self._until[job] <= seen.time]
        if len(line) > len(running):
            # Only where somebody waits does a turn end.
            line = [job for job in line if job not in over] + over
        keep = [job for job in line if job in running and job not in over]
        kept = set(keep)
        self._line = line
        self._until = {job: until for job, until in self._until.items() if job in row_of}
        order = [row_of[job] for job in keep + [job for job in line if job not in kept]]
        decision = first_fit(seen, requested(seen), order)
        for job in line:
            if decision.choice[row_of[job]] and (job not in running or job in over):
                self._until[job] = seen.time + self._turn
        return decision
