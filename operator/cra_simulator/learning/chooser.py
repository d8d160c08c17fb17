"""What the learners of presets have in common: how they explore, and how they are scored."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import numpy as np

from cra_operator.controller.policies.choosing import ACTIONS
from cra_operator.controller.policy import Floats
from cra_simulator.learning.env import ClusterEnv

EXPLORE_FIRST, EXPLORE_LAST = 0.5, 0.05


class Chooser(ABC):
    """Chooses a preset every ten minutes; exploration falls from a half to a twentieth over the run.

    Args:
        env: Where it acts; reset with a seed names the episode.
        validation: Where it is scored.
        scored: The seeds there.
        episodes: How many the run shall have, for the fall of exploration.
        seed: Of everything.
    """

    def __init__(
        self, env: ClusterEnv, validation: ClusterEnv, scored: Sequence[int], episodes: int, seed: int
    ) -> None:
        self._env, self._validation, self._scored = env, validation, scored
        self._episodes, self._seed = episodes, seed
        self._random = np.random.default_rng(seed)
        self._done = 0

    @abstractmethod
    def greedy(self) -> Callable[[Floats], int]:
        """What was learned so far, from a state to an action, as it would be shipped."""

    def _explore(self) -> float:
        """The part of actions that is left to chance."""
        part = min(self._done / self._episodes, 1.0)
        return EXPLORE_FIRST + (EXPLORE_LAST - EXPLORE_FIRST) * part

    def _begin(self) -> Floats:
        """Reset the environment to the next episode."""
        return self._env.reset(seed=self._seed * 1_000_000 + self._done)[0]

    def score(self) -> float:
        """Mean completion time over that of the untuned rule, acting greedily."""
        best, found = self.greedy(), []
        for seed in self._scored:
            state, _ = self._validation.reset(seed=seed)
            over = False
            while not over:
                state, _, over, _, info = self._validation.step(np.int64(best(state)))
            found.append(float(info["over_rule"]))
        return float(np.mean(found))

    def _act(self, explore: float, best: Callable[[], int]) -> int:
        """An action by chance, or else the best one."""
        if self._random.random() < explore:
            return int(self._random.integers(len(ACTIONS)))
        return best()
