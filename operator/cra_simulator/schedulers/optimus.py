"""Optimus: the next GPU goes where it saves most time (Peng et al., EuroSys'18).

Every job gets one GPU, in order of submission; then one more goes, again and again, to the job whose
estimated completion time it shortens most (section 4.1), until none helps. Completion time is optimizer steps
left over steps per second; the steps left are the declared ones, as in the Pollux artifact's "Optimus+Oracle"
(petuum/adaptdl, branch osdi21-artifact, simulator/optimus.py), where the paper estimates them from the loss
curve. Where sizes have gaps, the saving counts per GPU.

Knows throughput at each size and remaining steps; jobs that declare no end only get their one GPU.
"""

from __future__ import annotations

import numpy as np

from cra_operator.controller.policy import ClusterObservation, Decision, Floats, Ints
from cra_simulator.compiled import kernel
from cra_simulator.schedulers.one_type import capacity_of


class Optimus:
    """Greedy by saved completion time, on a cluster of one GPU type."""

    def decide(self, seen: ClusterObservation) -> Decision:
        """See `Policy.decide`."""
        choice = _greedy(
            seen.throughput, seen.rate, seen.sizes.gpus, seen.limit, seen.steps_left, capacity_of(seen)
        )
        return Decision(choice=choice, order=np.argsort(seen.sizes.gpus[choice], kind="stable"))


@kernel
def _saving(seconds: float, throughput: Floats, rate: Floats, gpus: Ints, limit: int, now: int) -> float:
    """Seconds times steps that the next size saves for each GPU; 0 if there is none."""
    following = now + 1
    if following == len(gpus) or gpus[following] > limit or not rate[following] > 0:
        return 0.0
    saved: float = 1 / throughput[now] - 1 / throughput[following]
    added: int = gpus[following] - gpus[now]
    return seconds * saved / added


@kernel
def _greedy(
    throughput: Floats, rate: Floats, gpus: Ints, limit: Ints, steps_left: Floats, capacity: int
) -> Ints:
    """A size for each job, [J], by the rule above."""
    jobs = len(rate)
    choice = np.zeros(jobs, dtype=np.int64)
    saving = np.zeros(jobs)
    free = capacity
    for j in range(jobs):
        if free >= gpus[1] and rate[j, 1] > 0:
            choice[j] = 1
            free -= gpus[1]
            saving[j] = _saving(steps_left[j], throughput[j], rate[j], gpus, limit[j], 1)
    while free > 0:
        best = -1
        for j in range(jobs):
            fits = choice[j] + 1 < len(gpus) and gpus[choice[j] + 1] - gpus[choice[j]] <= free
            if fits and saving[j] > 0 and (best < 0 or saving[j] > saving[best]):
                best = j
        if best < 0:
            break
        free -= gpus[choice[best] + 1] - gpus[choice[best]]
        choice[best] += 1
        saving[best] = _saving(
            steps_left[best], throughput[best], rate[best], gpus, limit[best], choice[best]
        )
    return choice
