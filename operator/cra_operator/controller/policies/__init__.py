"""The policies that the operator can run, one file each, by the names that a job's `spec.scaling.policy` has.

They need numpy only, see what `cra_operator.controller.policy` says and nothing of Kubernetes, and run
unchanged in the simulator, where they are compared with what is published.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from cra_operator.controller.policies import double_dqn, q_learning, sarsa
from cra_operator.controller.policies.attention import Attention
from cra_operator.controller.policies.double_dqn import DoubleDqn
from cra_operator.controller.policies.goodput import Goodput
from cra_operator.controller.policies.online import Online
from cra_operator.controller.policies.ppo import Ppo
from cra_operator.controller.policies.priority import Priority
from cra_operator.controller.policies.q_learning import QLearning
from cra_operator.controller.policies.round_robin import RoundRobin
from cra_operator.controller.policies.sarsa import Sarsa
from cra_operator.controller.policies.static import Static
from cra_operator.controller.policy import Policy

POLICIES: Mapping[str, Callable[..., Policy]] = {
    "static": Static,
    "uniform": lambda: Static("uniform"),
    "random": lambda: Static("random"),
    "round-robin": RoundRobin,
    "priority": Priority,
    "goodput": Goodput,
    "q-learning": QLearning,
    "sarsa": Sarsa,
    "double-dqn": DoubleDqn,
    "ppo": Ppo,
    "attention": Attention,
}
"""What makes a fresh instance of each; of `LEARNERS`, `online` is what it goes on learning."""
LEARNERS: Mapping[str, Callable[[], Online]] = {
    "q-learning": q_learning.online,
    "sarsa": sarsa.online,
    "double-dqn": double_dqn.online,
}
"""Those that can go on learning while they decide, and what makes their beginning."""
NOTHING: Mapping[str, Online] = {}
"""Nobody learns."""


def make(name: str, learned: Mapping[str, Online] = NOTHING) -> Policy:
    """A fresh instance of a policy; it may remember what it saw, so each loop has its own.

    Args:
        name: The policy's.
        learned: What policies have learned and go on learning; those that are not there learn nothing.

    Raises:
        ValueError: There is no policy of that name.
    """
    if name not in POLICIES:
        raise ValueError(f"there is no policy {name!r}; there are {', '.join(POLICIES)}")
    return POLICIES[name](online=learned[name]) if name in learned else POLICIES[name]()
