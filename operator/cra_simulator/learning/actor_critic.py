"""What the policy-gradient learners have in common: an actor, a critic, and steps along a gradient.

The actor is the attention network, the critic says what is still to come; one optimizer moves both.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping

import numpy as np
import torch
from torch import Tensor
from torch.nn import Parameter

from cra_operator.controller.policy import Floats
from cra_simulator.learning.learner import Snapshot, Task, random_state, restore_random
from cra_simulator.learning.network import AttentionNetwork, Critic

CRITIC_RATE = 3e-3
"""Learning rate of the critic."""
MOST_GRADIENT = 0.5
"""Longest gradient of the actor; longer ones are shortened to it."""


class ActorCritic(ABC):
    """Actor and critic.

    Args:
        task: What it learns.
    """

    def __init__(self, task: Task) -> None:
        self._make_world, self._rule = task.make_world, task.rule
        self._score, self._random = task.score, np.random.default_rng(task.seed)
        self._net = AttentionNetwork(task.start)
        with torch.random.fork_rng():
            torch.manual_seed(task.seed)
            self._critic = Critic()
        self._optimizer = self.optimizer(self._net.parameters(), self._critic.parameters())
        self._world = task.seed * 1_000_000
        """Seed of the next world."""

    @abstractmethod
    def optimizer(self, actor: Iterable[Parameter], critic: Iterable[Parameter]) -> torch.optim.Optimizer:
        """What moves both, with a learning rate for each."""

    @abstractmethod
    def step(self) -> Mapping[str, float]:
        """See `Learner`."""

    def _descend(self, loss: Tensor) -> None:
        """One step of the optimizer."""
        self._optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self._net.parameters(), MOST_GRADIENT)
        self._optimizer.step()

    def score(self) -> float:
        """See `Learner`."""
        return self._score(self._net.weights())

    def tensors(self) -> dict[str, Floats]:
        """See `Learner`."""
        return self._net.weights()._asdict()

    def snapshot(self) -> Snapshot:
        """See `Learner`."""
        return {
            "net": {key: value.clone() for key, value in self._net.state_dict().items()},
            "critic": {key: value.clone() for key, value in self._critic.state_dict().items()},
            "optimizer": self._optimizer.state_dict(),
            "world": self._world,
            "random": random_state(self._random),
        }

    def restore(self, snapshot: Snapshot) -> None:
        """See `Learner`."""
        self._net.load_state_dict(snapshot["net"])
        self._critic.load_state_dict(snapshot["critic"])
        self._optimizer.load_state_dict(snapshot["optimizer"])
        self._world = snapshot["world"]
        restore_random(self._random, snapshot["random"])


def normalised(advantage: Tensor) -> Tensor:
    """With mean 0 and deviation 1."""
    return (advantage - advantage.mean()) / (advantage.std() + 1e-8)
