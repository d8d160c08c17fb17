"""Advantage actor-critic with parallel actors (Mnih et al., *Asynchronous Methods for Deep Reinforcement
Learning*, ICML 2016), in its synchronous form.

    A = r_1 + ... + r_n + V(s_n+1) - V(s_1)
    theta <- theta + lr * grad log pi(a | s) * A        one update with the steps of all actors

The actors stand in different worlds at different times, which is what makes their steps independent. They are
advanced one after the other and update together: the asynchrony of the paper buys speed on many cores and
costs that no run can be repeated.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch

from cra_operator.controller.policies.network import Weights
from cra_operator.controller.policy import Floats
from cra_simulator.learning.acting import Actor, Step, batch, log_likelihood
from cra_simulator.learning.episode import Rule, World
from cra_simulator.learning.learner import Snapshot, random_state, restore_random
from cra_simulator.learning.network import AttentionNetwork, Critic

ACTORS = 16
UPDATES = 4
"""Of a step, between which nothing but the parameters goes over."""
STEPS = 10
"""n: a hundred minutes between updates."""
LEARNING_RATE = 5e-5
CRITIC_RATE = 3e-3
MOST_GRADIENT = 0.5


class A3c:
    """Actors with one network and one critic.

    Args:
        make_world: From a seed to a training world.
        rule: What the network is put on.
        start: The network to begin with; its last layer is zero for the rule itself.
        score: How good weights are.
        seed: Of everything.
    """

    def __init__(
        self,
        make_world: Callable[[int], World],
        rule: Rule,
        start: Weights,
        score: Callable[[Weights], float],
        seed: int,
    ) -> None:
        self._make_world, self._rule = make_world, rule
        self._score, self._random = score, np.random.default_rng(seed)
        self._net = AttentionNetwork(start)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self._critic = Critic()
        self._optimizer = torch.optim.RMSprop(
            [
                {"params": self._net.parameters(), "lr": LEARNING_RATE},
                {"params": self._critic.parameters(), "lr": CRITIC_RATE},
            ],
            alpha=0.99,
        )
        self._world = seed * 1_000_000

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
                Step(x=x, y=y, left=left, noise=np.zeros((len(x), 3)), reward=0.0, over=False)
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
        advantage = (goal - value).detach()
        advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
        mean = self._net(seen.x, seen.y, seen.mask)
        likely = log_likelihood(mean, mean.detach() + seen.noise) * seen.mask
        gain = (likely * advantage[:, None]).sum() / seen.mask.sum()
        error = (value - goal).square().mean()
        self._optimizer.zero_grad()
        (error - gain).backward()
        torch.nn.utils.clip_grad_norm_(self._net.parameters(), MOST_GRADIENT)
        self._optimizer.step()
        return float(error.detach())

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
