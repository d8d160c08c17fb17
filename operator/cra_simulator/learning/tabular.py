"""What Q-learning and SARSA have in common: a table of values, and one episode after the other."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import numpy as np

from cra_operator.controller.policies.choosing import ACTIONS, STATES, table_row
from cra_operator.controller.policy import Floats
from cra_simulator.learning.env import ClusterEnv
from cra_simulator.learning.learner import Snapshot, random_state, restore_random

DISCOUNT = 0.97
"""For ten minutes: what happens five hours later counts for less than half."""
EXPLORE_FIRST, EXPLORE_LAST = 0.5, 0.05


class Tabular(ABC):
    """Temporal-difference learning of Q(s, a), [S, A].

    The learning rate of a cell is 1 / (1 + visits)^0.6, which satisfies the conditions of Robbins and Monro;
    exploration falls from a half to a twentieth over the run.

    Args:
        env: Where it acts; reset with a seed names the episode.
        validation: Where it is scored.
        scored: The seeds there.
        episodes: How many the run shall have, for the fall of exploration.
        seed: Of exploration and of the first episode.
    """

    def __init__(
        self, env: ClusterEnv, validation: ClusterEnv, scored: Sequence[int], episodes: int, seed: int
    ) -> None:
        self._env, self._validation, self._scored = env, validation, scored
        self._episodes, self._seed = episodes, seed
        self._random = np.random.default_rng(seed)
        # Costs are positive, so zeros are hopeful, and what was never tried is tried.
        self._table = np.zeros((STATES, len(ACTIONS)))
        self._visits = np.zeros((STATES, len(ACTIONS)))
        self._done = 0

    @abstractmethod
    def target(self, values: Floats, action: int) -> float:
        """What the next state is worth, from its row of the table and the action that will be taken there."""

    def step(self) -> Mapping[str, float]:
        """One episode."""
        part = min(self._done / self._episodes, 1.0)
        explore = EXPLORE_FIRST + (EXPLORE_LAST - EXPLORE_FIRST) * part
        state, _ = self._env.reset(seed=self._seed * 1_000_000 + self._done)
        row, over = table_row(state), False
        info: dict[str, float] = {}
        action = self._act(row, explore)
        while not over:
            state, reward, over, _, info = self._env.step(np.int64(action))
            after = table_row(state)
            following = self._act(after, explore)
            goal = reward if over else reward + DISCOUNT * self.target(self._table[after], following)
            self._visits[row, action] += 1
            rate = (1.0 + self._visits[row, action]) ** -0.6
            self._table[row, action] += rate * (goal - self._table[row, action])
            row, action = after, following
        self._done += 1
        return {"episodes": 1.0, "explore": explore, **info}

    def _act(self, row: int, explore: float) -> int:
        if self._random.random() < explore:
            return int(self._random.integers(len(ACTIONS)))
        return int(self._table[row].argmax())

    def score(self) -> float:
        """Mean completion time over that of the untuned rule, acting greedily."""
        return float(np.mean([self._greedy(seed) for seed in self._scored]))

    def _greedy(self, seed: int) -> float:
        state, _ = self._validation.reset(seed=seed)
        while True:
            action = self.tensors()["table"][table_row(state)].argmax()
            state, _, over, _, info = self._validation.step(action)
            if over:
                return float(info["over_rule"])

    def tensors(self) -> dict[str, Floats]:
        """The table; what was never tried is never chosen."""
        return {"table": np.where(self._visits > 0, self._table, -1e6 + self._preferred())}

    def _preferred(self) -> Floats:
        """Where nothing was tried in a state, the action that did best wherever it was tried."""
        tried = self._visits.sum(axis=0)
        total = (self._table * self._visits).sum(axis=0)
        found: Floats = np.divide(total, tried, out=np.zeros_like(tried), where=tried > 0)
        return found

    def snapshot(self) -> Snapshot:
        """See `Learner`."""
        return {
            "table": self._table.copy(),
            "visits": self._visits.copy(),
            "done": self._done,
            "random": random_state(self._random),
        }

    def restore(self, snapshot: Snapshot) -> None:
        """See `Learner`."""
        self._table, self._visits = snapshot["table"].copy(), snapshot["visits"].copy()
        self._done = snapshot["done"]
        restore_random(self._random, snapshot["random"])
