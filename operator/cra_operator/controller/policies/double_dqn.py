"""Double DQN: a network in place of the table (van Hasselt, Guez and Silver, AAAI 2016).

Trained by `cra_simulator.learning.double_dqn`; here the network is only read.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from cra_operator.controller.policies.choosing import Choosing
from cra_operator.controller.policies.store import load_tensors
from cra_operator.controller.policy import Floats


class DoubleDqn(Choosing):
    """Takes the action of the largest value.

    Args:
        layers: `weight0`, [H, S], `bias0`, and so on, as torch has them; None takes those that are shipped.
    """

    def __init__(self, layers: Mapping[str, Floats] | None = None) -> None:
        tensors = load_tensors("double-dqn")[0] if layers is None else layers
        super().__init__(lambda state: int(values(state, tensors).argmax()))


def values(state: Floats, layers: Mapping[str, Floats]) -> Floats:
    """Q(s, a) of a state, [A]: linear layers with tanh between them."""
    last = len(layers) // 2 - 1
    x = state
    for i in range(last + 1):
        x = layers[f"weight{i}"] @ x + layers[f"bias{i}"]
        if i < last:
            x = np.tanh(x)
    return x
