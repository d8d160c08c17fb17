"""PPO (Schulman et al., *Proximal Policy Optimization Algorithms*, 2017), for the attention network.

    ratio = pi(a | s) / pi_old(a | s)
    maximise  min(ratio * A, clip(ratio, 1 - eps, 1 + eps) * A)        A by GAE(lambda), whole episodes

Every job is an agent with the same network and the same advantage (as in MAPPO, Yu et al., NeurIPS 2022): the
ratio is that of the job's own action, so that one job's noise does not clip all others. The reward is shared.
There is no discount: an episode's return is its mean completion time.
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

EPISODES = 12
"""Of a step."""
EPOCHS = 3
MINIBATCH = 256
CLIP = 0.2
LAMBDA = 0.95
LEARNING_RATE = 1e-3
CRITIC_RATE = 3e-3
MOST_GRADIENT = 0.5


class Ppo:
    """Actor and critic.

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
        self._score, self._random = score, np.random.default_rng(seed)
        self._net = AttentionNetwork(start)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self._critic = Critic()
        self._optimizer = torch.optim.Adam(
            [
                {"params": self._net.parameters(), "lr": LEARNING_RATE},
                {"params": self._critic.parameters(), "lr": CRITIC_RATE},
            ]
        )
        self._actor = Actor(make_world, rule, seed * 1_000_000)

    def step(self) -> Mapping[str, float]:
        """Some episodes, then a few passes over what they gave."""
        weights, steps = self._net.weights(), []
        self._actor.over_rule.clear()
        while len(self._actor.over_rule) < EPISODES:
            steps.append(self._actor.act(weights, self._random))
        seen = batch(steps)
        with torch.no_grad():
            mean = self._net(seen.x, seen.y, seen.mask)
            value = self._critic(seen.x, seen.y, seen.mask, seen.left).double().numpy()
        advantage = torch.tensor(advantages(steps, value), dtype=torch.float32)
        returns = advantage + torch.tensor(value, dtype=torch.float32)
        advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
        taken, before = mean + seen.noise, log_likelihood(mean, mean + seen.noise)
        gains, errors = [], []
        for _ in range(EPOCHS):
            order = torch.from_numpy(self._random.permutation(len(steps)))
            for rows in torch.split(order, MINIBATCH):
                part = seen.rows(rows)
                jobs = part.mask.shape[1]
                now = log_likelihood(self._net(part.x, part.y, part.mask), taken[rows, :jobs])
                ratio = torch.exp(now - before[rows, :jobs])
                worth = advantage[rows, None]
                clipped = torch.minimum(ratio * worth, ratio.clamp(1 - CLIP, 1 + CLIP) * worth)
                gain = (clipped * part.mask).sum() / part.mask.sum()
                error = (self._critic(part.x, part.y, part.mask, part.left) - returns[rows]).square().mean()
                self._optimizer.zero_grad()
                (error - gain).backward()
                torch.nn.utils.clip_grad_norm_(self._net.parameters(), MOST_GRADIENT)
                self._optimizer.step()
                gains.append(float(gain.detach()))
                errors.append(float(error.detach()))
        return {
            "episodes": float(EPISODES),
            "over_rule": float(np.mean(self._actor.over_rule)),
            "gain": float(np.mean(gains)),
            "value_error": float(np.mean(errors)),
        }

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
            "world": self._actor.seed,
            "random": random_state(self._random),
        }

    def restore(self, snapshot: Snapshot) -> None:
        """See `Learner`."""
        self._net.load_state_dict(snapshot["net"])
        self._critic.load_state_dict(snapshot["critic"])
        self._optimizer.load_state_dict(snapshot["optimizer"])
        self._actor.seed = snapshot["world"]
        restore_random(self._random, snapshot["random"])


def advantages(steps: list[Step], value: Floats) -> Floats:
    """Generalised advantage estimates of whole episodes, one after the other, [B] (Schulman et al., 2016)."""
    found = np.zeros(len(steps))
    ahead, following = 0.0, 0.0
    for i in range(len(steps) - 1, -1, -1):
        if steps[i].over:
            ahead, following = 0.0, 0.0
        ahead = steps[i].reward + following - value[i] + LAMBDA * ahead
        found[i], following = ahead, value[i]
    return found
