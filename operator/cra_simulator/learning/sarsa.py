"""SARSA (Rummery and Niranjan, 1994): state, action, reward, state, action.

    Q(s, a) <- Q(s, a) + lr * (r + gamma * Q(s', a') - Q(s, a))

The target takes the action that will really be taken next, exploration included: on-policy. States and
actions are those of `cra_operator.controller.policies.choosing`.
"""

from __future__ import annotations

from cra_operator.controller.policies.temporal import on_policy
from cra_operator.controller.policy import Floats
from cra_simulator.learning.tabular import Tabular


class Sarsa(Tabular):
    """The action that is taken next counts."""

    def target(self, values: Floats, action: int) -> float:
        """See `Tabular.target`."""
        return on_policy(values, values, action)
