"""SARSA: a table learned on-policy, from the actions really taken (Rummery and Niranjan, 1994).

Trained by `cra_simulator.learning.sarsa`; here the table is read, and corrected where it
goes on learning (`online`).
"""

from __future__ import annotations

from cra_operator.controller.policies.choosing import ACTIONS, NUMBERS, STATES, Choosing, read_table
from cra_operator.controller.policies.online import Online
from cra_operator.controller.policies.store import load_tensors
from cra_operator.controller.policies.temporal import on_policy
from cra_operator.controller.policy import Floats


class Sarsa(Choosing):
    """Reads the action of the largest value.

    Args:
        table: Q(s, a), [S, A]; None takes the one that is shipped.
        online: What is learned meanwhile, if anything.
    """

    def __init__(self, table: Floats | None = None, online: Online | None = None) -> None:
        values = load_tensors("sarsa")[0]["table"] if table is None else table
        super().__init__(read_table(values), online)


def online() -> Online:
    """What it has learned since it was shipped: nothing yet."""
    return Online(policy="sarsa", actions=len(ACTIONS), features=STATES, numbers=NUMBERS, worth=on_policy)
