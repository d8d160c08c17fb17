"""PPO (Schulman et al., *Proximal Policy Optimization Algorithms*, 2017), for the attention network.

    ratio = pi(a | s) / pi_old(a | s)
    maximise  min(ratio * A, clip(ratio, 1 - eps, 1 + eps) * A)        A by GAE(lambda), whole episodes

Every job is an agent with the same network and the same advantage (as in MAPPO, Yu et al., NeurIPS 2022): the
ratio is that of the job's own action, so that one job's noise does not clip all others. The reward is shared.
There is no discount: an episode's return is its mean completion time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import torch
from torch.nn import Parameter

from cra_operator.controller.policy import Floats
from cra_simulator.learning.acting import Actor, Step, batch, log_likelihood
from cra_simulator.learning.actor_critic import CRITIC_RATE, ActorCritic, normalised

EPISODES = 12
"""Of a step."""
EPOCHS = 3
MINIBATCH = 256
CLIP = 0.2
LAMBDA = 0.95
LEARNING_RATE = 1e-3


class Ppo(ActorCritic):
    """One actor, which plays whole episodes."""

    def optimizer(self, actor: Iterable[Parameter], critic: Iterable[Parameter]) -> torch.optim.Optimizer:
        """See `ActorCritic.optimizer`."""
        groups = [{"params": actor, "lr": LEARNING_RATE}, {"params": critic, "lr": CRITIC_RATE}]
        return torch.optim.Adam(groups)

    def step(self) -> Mapping[str, float]:
        """Some episodes, then a few passes over what they gave."""
        weights, steps = self._net.weights(), []
        actor = Actor(self._make_world, self._rule, self._world)
        while len(actor.over_rule) < EPISODES:
            steps.append(actor.act(weights, self._random))
        self._world = actor.seed
        seen = batch(steps)
        with torch.no_grad():
            mean = self._net(seen.x, seen.y, seen.mask)
            value = self._critic(seen.x, seen.y, seen.mask, seen.left).double().numpy()
        advantage = torch.tensor(advantages(steps, value), dtype=torch.float32)
        returns = advantage + torch.tensor(value, dtype=torch.float32)
        advantage = normalised(advantage)
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
                self._descend(error - gain)
                gains.append(float(gain.detach()))
                errors.append(float(error.detach()))
        return {
            "episodes": float(EPISODES),
            "over_rule": float(np.mean(actor.over_rule)),
            "gain": float(np.mean(gains)),
            "value_error": float(np.mean(errors)),
        }


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
