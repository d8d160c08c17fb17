"""Static allocation: a job keeps the size that it starts with.

Three rules for that size: `fixed`, what its owner asked for; `uniform`, the same number of GPUs for all;
`random`, any size up to what it can use, drawn once per job. Jobs start in order of submission, later ones
pass by those that do not fit, and nobody is preempted or resized, whoever chose the size that a job has.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from cra_operator.controller.policies.rigid import first_fit, requested
from cra_operator.controller.policy import ClusterObservation, Decision, Ints


class Static:
    """Sizes that never change.

    Args:
        rule: How a job's size is chosen.
        gpus: The number for all, where the rule is `uniform`; a job that cannot use as many gets fewer, one
            that needs more the least that it can run on.
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
        runs = seen.rate[np.arange(len(seen)), seen.current] > 0
        waiting = seen.current == 0
        wanted = np.where(runs & ~waiting, seen.current, self._first(seen))
        order = [*np.flatnonzero(~waiting).tolist(), *np.flatnonzero(waiting).tolist()]
        return first_fit(seen, wanted, order)

    def _first(self, seen: ClusterObservation) -> Ints:
        """The size that each job shall start with, as a column, [J]."""
        column = requested(seen)
        if self._rule == "fixed":
            return column
        # The sizes on offer may change between two looks, so what was drawn is kept as a number of GPUs.
        self._drawn = {job: self._drawn[job] for job in seen.ids.tolist() if job in self._drawn}
        for j, job in enumerate(seen.ids.tolist()):
            usable = np.flatnonzero(seen.rate[j] > 0)
            if not len(usable):
                continue
            gpus = seen.sizes.gpus[usable]
            if self._rule == "random" and job not in self._drawn:
                self._drawn[job] = int(self._random.choice(gpus))
            most = self._drawn[job] if self._rule == "random" else self._gpus
            column[j] = usable[np.argmax(np.where(gpus <= most, gpus, -gpus))]
        return column
