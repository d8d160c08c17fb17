"""What Q-learning and SARSA have in common: a table of values, and one episode after the other."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np

from cra_operator.controller.policies.choosing import ACTIONS, STATES, table_row
from cra_operator.controller.policies.temporal import UNTRIED, step
from cra_operator.controller.policy import Floats
from cra_simulator.learning.chooser import Chooser
from cra_simulator.learning.env import ClusterEnv
from cra_simulator.learning.learner import Snapshot, random_state, restore_random


class Tabular(Chooser):
    """Temporal-difference learning of Q(s, a), [S, A], by the rule with which the operator may go on.

    The learning rate of a cell is 1 / (1 + visits)^0.6, which satisfies the conditions of Robbins and Monro.
    See `Chooser` for the arguments.
    """

    def __init__(
        self, env: ClusterEnv, validation: ClusterEnv, scored: Sequence[int], episodes: int, seed: int
    ) -> None:
        super().__init__(env, validation, scored, episodes, seed)
        # Costs are positive, so zeros are hopeful, and what was never tried is tried.
        self._table = np.zeros((STATES, len(ACTIONS)))
        self._visits = np.zeros((STATES, len(ACTIONS)))

    @abstractmethod
    def target(self, values: Floats, action: int) -> float:
        """What the next state is worth, from its row of the table and the action that will be taken there."""

    def step(self) -> Mapping[str, float]:
        """One episode."""
        explore = self._explore()
        row, over = table_row(self._begin()), False
        info: dict[str, float] = {}
        action = self._act(explore, partial(self._best, row))
        while not over:
            state, reward, over, _, info = self._env.step(np.int64(action))
            after = table_row(state)
            following = self._act(explore, partial(self._best, after))
            worth = 0.0 if over else self.target(self._table[after], following)
            self._visits[row, action] += 1
            rate = (1.0 + self._visits[row, action]) ** -0.6
            self._table[row, action] += step(self._table[row, action], reward, worth, rate)
            row, action = after, following
        self._done += 1
        return {"episodes": 1.0, "explore": explore, **info}

    def _best(self, row: int) -> int:
        return int(self._table[row].argmax())

    def greedy(self) -> Callable[[Floats], int]:
        """See `Chooser.greedy`."""
        table = self.tensors()["table"]
        return lambda state: int(table[table_row(state)].argmax())

    def tensors(self) -> dict[str, Floats]:
        """The table; what was never tried is never chosen."""
        return {"table": np.where(self._visits > 0, self._table, UNTRIED + self._preferred())}

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
