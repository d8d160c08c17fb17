"""Q-learning (Watkins and Dayan, Machine Learning 1992).

    Q(s, a) <- Q(s, a) + lr * (r + gamma * max_a' Q(s', a') - Q(s, a))

The target takes the best action of the next state, whatever will be done there: off-policy. States and
actions are those of `cra_operator.controller.policies.choosing`.
"""

from __future__ import annotations

from cra_operator.controller.policies.temporal import off_policy
from cra_operator.controller.policy import Floats
from cra_simulator.learning.tabular import Tabular


class QLearning(Tabular):
    """The best next action counts."""

    def target(self, values: Floats, action: int) -> float:
        """See `Tabular.target`."""
        return off_policy(values, values, action)
