"""Learning without gradients, by `cma`: first what is plain in a token, then the whole last layer.

What one number does drowns in noise when single decisions are judged, but not when all candidates play whole
episodes in the same worlds and only their ranks count. The encoder stays random. With few numbers a search
finds its way in tens of generations, so it begins with the answer of each job to some of its own features;
on top of what came of that, the rest is looked for, what jobs learn from each other included.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from cra_operator.controller.policies.network import OUT, Weights
from cra_operator.controller.policies.tokens import JOB_FEATURES
from cra_operator.controller.policy import Floats
from cra_simulator.learning.cma import Cma
from cra_simulator.learning.learner import Snapshot, Task, random_state, restore_random
from cra_simulator.learning.score import episode, flatten, no_weights, replaced, score

FIRST = 36
"""Generations that look only for how"""
PLAIN = (
    "log T1", "log T1 squared", "log T1 x load", "rank by T1", "log age", "part done", "load", "one",
)  # fmt: skip
"""bear on"""
NUMBERS = (1.0, 0.5, 1.0, 0.25)
"""(log w, q, h, e), which are moved so far relative to each other."""
SIGMAS = (0.12, 0.01)
"""How far numbers are moved at first, in the first generations and in the later ones."""


class Evolution:
    """Searches in the last layer of the network; the other parameters stay.

    Args:
        task: What it learns.
    """

    def __init__(self, task: Task) -> None:
        self._task = task
        self._random = np.random.default_rng(task.seed)
        self._vector = flatten(task.start, OUT)
        self._generation = 0
        self._begin()

    def _begin(self) -> None:
        """Look from here among the numbers whose turn it is."""
        self._free = _plain() if self._generation < FIRST else np.arange(len(self._vector))
        spread = np.tile(NUMBERS, len(self._vector) // len(NUMBERS))
        self._search = Cma(
            self._vector[self._free], spread[self._free], SIGMAS[int(self._generation >= FIRST)]
        )

    def step(self) -> Mapping[str, float]:
        """One generation."""
        worlds = self._task.practice
        references = [episode(world, no_weights(), self._task.rule) for world in worlds]
        candidates = self._search.ask(self._random)
        costs = np.empty(len(candidates))
        for i, candidate in enumerate(candidates):
            weights = self._weights(self._with(candidate))
            played = [episode(world, weights, self._task.rule) for world in worlds]
            costs[i] = np.mean([score(*pair) for pair in zip(played, references, strict=True)])
        self._search.tell(costs)
        self._vector = self._with(self._search.mean)
        self._generation += 1
        if self._generation == FIRST:
            self._begin()
        return {
            "episodes": float(len(worlds) * (len(costs) + 1)),
            "cost": float(np.median(costs)),
            "best": float(costs.min()),
            "sigma": self._search.sigma,
        }

    def _with(self, numbers: Floats) -> Floats:
        """The last layer with these in place of those that are looked for."""
        vector = self._vector.copy()
        vector[self._free] = numbers
        return vector

    def _weights(self, vector: Floats) -> Weights:
        return replaced(self._task.start, OUT, vector)

    def score(self) -> float:
        """See `Learner`."""
        return self._task.score(self._weights(self._vector))

    def tensors(self) -> dict[str, Floats]:
        """See `Learner`."""
        return self._weights(self._vector)._asdict()

    def snapshot(self) -> Snapshot:
        """See `Learner`."""
        return {
            "vector": self._vector,
            "generation": self._generation,
            "search": self._search.snapshot(),
            "random": random_state(self._random),
        }

    def restore(self, snapshot: Snapshot) -> None:
        """See `Learner`."""
        self._vector, self._generation = snapshot["vector"], snapshot["generation"]
        self._begin()
        self._search.restore(snapshot["search"])
        restore_random(self._random, snapshot["random"])


def _plain() -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Which numbers of the last layer say how plain features bear on each of `NUMBERS`."""
    marked = no_weights()
    marked.out_token[[JOB_FEATURES.index(feature) for feature in PLAIN]] = 1.0
    return np.flatnonzero(flatten(marked, OUT))
