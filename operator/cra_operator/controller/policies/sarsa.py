"""SARSA: a table learned on-policy, from the actions really taken (Rummery and Niranjan, 1994).

Trained by `cra_simulator.learning.sarsa`; here the table is only read.
"""

from __future__ import annotations

from cra_operator.controller.policies.choosing import Choosing, table_row
from cra_operator.controller.policies.store import load_tensors
from cra_operator.controller.policy import Floats


class Sarsa(Choosing):
    """Reads the action of the largest value.

    Args:
        table: Q(s, a), [S, A]; None takes the one that is shipped.
    """

    def __init__(self, table: Floats | None = None) -> None:
        values = load_tensors("sarsa")[0]["table"] if table is None else table
        super().__init__(lambda state: int(values[table_row(state)].argmax()))
