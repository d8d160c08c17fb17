"""Advantage actor-critic with parallel actors (Mnih et al., *Asynchronous Methods for Deep Reinforcement
Learning*, ICML 2016), in its synchronous form.

    A = r_1 + ... + r_n + V(s_n+1) - V(s_1)
    theta <- theta + lr * grad log pi(a | s) * A        one update with the steps of all actors

The actors stand in different worlds at different times, which is what makes their steps independent. They are
advanced one after the other and update together: the asynchrony of the paper buys speed on many cores and
costs that no run can be repeated.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import torch
from torch.nn import Parameter

from cra_operator.controller.policies.network import OUTPUTS
from cra_simulator.learning.acting import Actor, Step, batch, log_likelihood
from cra_simulator.learning.actor_critic import CRITIC_RATE, ActorCritic, normalised

ACTORS = 16
UPDATES = 4
"""Of a step, between which nothing but the parameters goes over."""
STEPS = 10
"""n: a hundred minutes between updates."""
LEARNING_RATE = 5e-5


class A3c(ActorCritic):
    """Actors with one network and one critic."""

    def optimizer(self, actor: Iterable[Parameter], critic: Iterable[Parameter]) -> torch.optim.Optimizer:
        """See `ActorCritic.optimizer`."""
        groups = [{"params": actor, "lr": LEARNING_RATE}, {"params": critic, "lr": CRITIC_RATE}]
        return torch.optim.RMSprop(groups, alpha=0.99)

    def step(self) -> Mapping[str, float]:
        """Fresh actors, and some updates."""
        actors = [Actor(self._make_world, self._rule, self._world + i, ACTORS) for i in range(ACTORS)]
        # They begin at different times of their worlds.
        for i, actor in enumerate(actors):
            for _ in range(i % STEPS):
                actor.act(self._net.weights(), self._random)
        errors = [self._update(actors) for _ in range(UPDATES)]
        over = [ratio for actor in actors for ratio in actor.over_rule]
        self._world = max(actor.seed for actor in actors) + ACTORS
        return {
            "episodes": float(len(over) + ACTORS),
            "value_error": float(np.mean(errors)),
            "over_rule": float(np.mean(over)) if over else float("nan"),
        }

    def _update(self, actors: list[Actor]) -> float:
        weights = self._net.weights()
        played = [[actor.act(weights, self._random) for _ in range(STEPS)] for actor in actors]
        ends = [actor.now() for actor in actors]
        last = batch(
            [
                Step(x=x, y=y, left=left, noise=np.zeros((len(x), OUTPUTS)), reward=0.0, over=False)
                for x, y, left in ends
            ]
        )
        with torch.no_grad():
            following = self._critic(last.x, last.y, last.mask, last.left).tolist()
        returns = []
        for steps, beyond in zip(played, following, strict=True):
            backwards = []
            for step in reversed(steps):
                beyond = step.reward + (0.0 if step.over else beyond)
                backwards.append(beyond)
            returns += backwards[::-1]
        seen = batch([step for steps in played for step in steps])
        value = self._critic(seen.x, seen.y, seen.mask, seen.left)
        goal = torch.tensor(returns, dtype=torch.float32)
        advantage = normalised((goal - value).detach())
        mean = self._net(seen.x, seen.y, seen.mask)
        likely = log_likelihood(mean, mean.detach() + seen.noise) * seen.mask
        gain = (likely * advantage[:, None]).sum() / seen.mask.sum()
        error = (value - goal).square().mean()
        self._descend(error - gain)
        return float(error.detach())
