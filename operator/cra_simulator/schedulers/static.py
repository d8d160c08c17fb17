"""Static allocation: a job keeps the size that it starts with.

Three rules for that size: `fixed`, what its owner asked for; `uniform`, the same number of GPUs for all;
`random`, any size up to what it can use, drawn once per job. Jobs start in order of submission, later ones
pass by those that do not fit, and nobody is preempted.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from cra_operator.controller.policy import ClusterObservation, Decision, Ints
from cra_simulator.schedulers.rigid import first_fit, requested


class Static:
    """Sizes that never change.

    Args:
        rule: How a job's size is chosen.
        gpus: The number for all, where the rule is `uniform`; a job that cannot use as many gets fewer.
        seed: Of the draw, where the rule is `random`.
    """

    def __init__(
        self, rule: Literal["fixed", "uniform", "random"] = "fixed", *, gpus: int = 4, seed: int = 0
    ) -> None:
        self._rule = rule
        self._gpus = gpus
        self._random = np.random.default_rng(seed)
        self._drawn: dict[int, int] = {}

    def decide(self, seen: ClusterObservation) -> Decision:
        """See `Policy.decide`."""
        wanted = self._wanted(seen)
        waiting = seen.current == 0
        order = [*np.flatnonzero(~waiting).tolist(), *np.flatnonzero(waiting).tolist()]
        return first_fit(seen, wanted, order)

    def _wanted(self, seen: ClusterObservation) -> Ints:
        if self._rule == "fixed":
            return requested(seen)
        for j, job in enumerate(seen.ids.tolist()):
            if job not in self._drawn:
                usable = np.flatnonzero(seen.rate[j] > 0)
                if self._rule == "uniform":
                    within = usable[seen.sizes.gpus[usable] <= self._gpus]
                    self._drawn[job] = int(within[np.argmax(seen.sizes.gpus[within])])
                else:
                    self._drawn[job] = int(self._random.choice(usable))
        return np.array([self._drawn[job] for job in seen.ids.tolist()])
