"""Double DQN: a network in place of the table (van Hasselt, Guez and Silver, AAAI 2016).

Trained by `cra_simulator.learning.double_dqn`; here the network is read, and its last layer corrected
where it goes on learning (`online`).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from cra_operator.controller.policies.choosing import ACTIONS, NUMBERS, Choosing
from cra_operator.controller.policies.online import Online
from cra_operator.controller.policies.store import load_tensors
from cra_operator.controller.policies.temporal import off_policy
from cra_operator.controller.policy import Floats

WIDTH = 32
"""Of the hidden layers that are shipped."""
FOLLOW = 0.01
"""How far the slow copy moves towards the network after every step."""


class DoubleDqn(Choosing):
    """Takes the action of the largest value.

    Args:
        layers: `weight0`, [H, S], `bias0`, and so on, as torch has them; None takes those that are shipped.
        online: What is learned meanwhile, if anything.
    """

    def __init__(self, layers: Mapping[str, Floats] | None = None, online: Online | None = None) -> None:
        tensors = load_tensors("double-dqn")[0] if layers is None else layers
        super().__init__(lambda state: values(state, tensors), online)


def online() -> Online:
    """What it has learned since it was shipped: nothing yet."""
    return Online(
        policy="double-dqn",
        actions=len(ACTIONS),
        features=WIDTH + 1,
        numbers=NUMBERS,
        worth=off_policy,
        follow=FOLLOW,
    )


def values(state: Floats, layers: Mapping[str, Floats]) -> tuple[Floats, Floats]:
    """Q(s, a) of a state, [A], by linear layers with tanh between them, and what the last reads, [H+1]."""
    last = len(layers) // 2 - 1
    x = state
    for i in range(last):
        x = np.tanh(layers[f"weight{i}"] @ x + layers[f"bias{i}"])
    return layers[f"weight{last}"] @ x + layers[f"bias{last}"], np.append(x, 1.0)
