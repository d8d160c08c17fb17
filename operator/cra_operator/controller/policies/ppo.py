"""PPO: the attention policy with the weights that proximal policy optimisation found.

The same network and solver as `attention`, which ships what came out best of all ways to train it; here it is
always policy gradients (Schulman et al., 2017). Trained by `cra_simulator.learning.ppo`.
"""

from __future__ import annotations

from cra_operator.controller.policies.attention import Attention
from cra_operator.controller.policies.store import load_network


class Ppo(Attention):
    """The attention policy as PPO learned it."""

    def __init__(self) -> None:
        super().__init__(load_network("ppo"))
