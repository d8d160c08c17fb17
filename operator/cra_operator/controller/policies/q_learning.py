"""Q-learning: the best known action of a table, learned off-policy (Watkins and Dayan, 1992).

Trained by `cra_simulator.learning.q_learning`; here the table is read, and corrected where it
goes on learning (`online`).
"""

from __future__ import annotations

from cra_operator.controller.policies.choosing import ACTIONS, NUMBERS, STATES, Choosing, read_table
from cra_operator.controller.policies.online import Online
from cra_operator.controller.policies.store import load_tensors
from cra_operator.controller.policies.temporal import off_policy
from cra_operator.controller.policy import Floats


class QLearning(Choosing):
    """Reads the action of the largest value.

    Args:
        table: Q(s, a), [S, A]; None takes the one that is shipped.
        online: What is learned meanwhile, if anything.
    """

    def __init__(self, table: Floats | None = None, online: Online | None = None) -> None:
        values = load_tensors("q-learning")[0]["table"] if table is None else table
        super().__init__(read_table(values), online)


def online() -> Online:
    """What it has learned since it was shipped: nothing yet."""
    return Online(
        policy="q-learning", actions=len(ACTIONS), features=STATES, numbers=NUMBERS, worth=off_policy
    )
