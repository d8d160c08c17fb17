"""Pollux: the fairest goodput (Qiao et al., OSDI'21), its objective solved exactly.

Pollux maximises the power mean, with exponent p = -1, of the jobs' speedups, each relative to the goodput
that the job would have with a fair share of the cluster (section 4.2). A job that would be moved counts with
its speedup times max(age - restarts * delay, 0) / (age + delay), the part of its life that it would then have
been training. The published scheduler searches with a genetic algorithm for the numbers of replicas on each
node; here an exact knapsack finds the best numbers of GPUs, and placement is the simulator's. The constants
are those of the artifact (petuum/adaptdl, branch osdi21-artifact, simulator/pollux.py): a delay of 30 s, a
speedup measured in nodes, and 0.001 added so that a job without GPUs counts finitely.

Knows goodput at each size. Does not use remaining work.
"""

from __future__ import annotations

import numpy as np

from cra_operator.controller.policy import ClusterObservation, Decision, Floats, Ints
from cra_simulator.compiled import kernel, knapsack
from cra_simulator.schedulers.one_type import capacity_of

_DELAY = 30.0
_FLOOR = 1e-3


class Pollux:
    """The power mean of speedups, maximised over a cluster of one GPU type."""

    def decide(self, seen: ClusterObservation) -> Decision:
        """See `Policy.decide`."""
        capacity = capacity_of(seen)
        value = _worth(
            seen.rate, seen.sizes.gpus, seen.limit, seen.current, seen.age, seen.restarts, capacity,
            int(seen.node_gpus[0]),
        )  # fmt: skip
        return Decision(choice=knapsack(value, seen.sizes.gpus, capacity))


@kernel
def _worth(
    rate: Floats,
    gpus: Ints,
    limit: Ints,
    current: Ints,
    age: Floats,
    restarts: Ints,
    capacity: int,
    node: int,
) -> Floats:
    """-1 / (speedup + 0.001) of each job at each size, [J, K]; the larger the sum, the larger the mean."""
    jobs, sizes = rate.shape
    value = np.full((jobs, sizes), -np.inf)
    # The goodput of a fair share is that of the largest size within it.
    fair_size = np.searchsorted(gpus, -(-capacity // jobs), side="right") - 1
    for j in range(jobs):
        moved = max(age[j] - restarts[j] * _DELAY, 0.0) / (age[j] + _DELAY)
        fair = rate[j, fair_size]
        if fair <= 0:
            fair = rate[j].max()
        for k in range(sizes):
            if k == 0 or (rate[j, k] > 0 and gpus[k] <= limit[j]):
                speedup = rate[j, k] / fair / node
                value[j, k] = -1.0 / (speedup * (1.0 if k == current[j] else moved) + _FLOOR)
    return value
