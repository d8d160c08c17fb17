"""Double DQN (van Hasselt, Guez and Silver, *Deep Reinforcement Learning with Double Q-learning*, AAAI 2016).

    y = r + gamma * Q'(s', argmax_a Q(s', a))         Q' a copy of Q that follows slowly
    minimise  huber(Q(s, a) - y)  over batches of remembered transitions

The network that chooses the next action is not the one that values it, which takes out the optimism of plain
DQN. States and actions are those of `cra_operator.controller.policies.choosing`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
import torch
from torch import nn

from cra_operator.controller.policies.choosing import ACTIONS, NUMBERS
from cra_operator.controller.policies.double_dqn import FOLLOW, WIDTH
from cra_operator.controller.policies.temporal import DISCOUNT
from cra_operator.controller.policy import Floats
from cra_simulator.learning.chooser import Chooser
from cra_simulator.learning.env import ClusterEnv
from cra_simulator.learning.learner import Snapshot, random_state, restore_random

MEMORY = 20_000
BATCH = 64
LEARNING_RATE = 1e-3
REWARD_SCALE = 100.0
"""Ten minutes cost about a hundredth of an episode; networks like numbers near one."""


class DoubleDqn(Chooser):
    """A network of two layers and a memory; see `Chooser` for the arguments."""

    def __init__(
        self, env: ClusterEnv, validation: ClusterEnv, scored: Sequence[int], episodes: int, seed: int
    ) -> None:
        super().__init__(env, validation, scored, episodes, seed)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self._net, self._slow = _network(), _network()
        self._slow.load_state_dict(self._net.state_dict())
        self._optimizer = torch.optim.Adam(self._net.parameters(), lr=LEARNING_RATE)
        self._memory = torch.zeros(MEMORY, 2 * NUMBERS + 3)
        self._remembered = 0

    def step(self) -> Mapping[str, float]:
        """One episode, with a batch learned after each action."""
        explore, state = self._explore(), self._begin()
        over, losses = False, []
        info: dict[str, float] = {}
        while not over:
            action = self._act(explore, partial(self._best, state))
            after, reward, over, _, info = self._env.step(np.int64(action))
            row = np.concatenate([state, after, [action, reward * REWARD_SCALE, float(over)]])
            self._memory[self._remembered % MEMORY] = torch.from_numpy(row)
            self._remembered += 1
            state = after
            if self._remembered >= BATCH:
                losses.append(self._learn())
        self._done += 1
        return {"episodes": 1.0, "explore": explore, "loss": float(np.mean(losses or [0.0])), **info}

    def _learn(self) -> float:
        drawn = self._random.integers(min(self._remembered, MEMORY), size=BATCH)
        rows = self._memory[torch.from_numpy(drawn)]
        state, after = rows[:, :NUMBERS], rows[:, NUMBERS : 2 * NUMBERS]
        action, reward, over = rows[:, -3].long(), rows[:, -2], rows[:, -1]
        with torch.no_grad():
            chosen = self._net(after).argmax(dim=1, keepdim=True)
            goal = reward + DISCOUNT * (1 - over) * self._slow(after).gather(1, chosen)[:, 0]
        value = self._net(state).gather(1, action[:, None])[:, 0]
        loss = nn.functional.smooth_l1_loss(value, goal)
        self._optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()
        with torch.no_grad():
            for slow, fast in zip(self._slow.parameters(), self._net.parameters(), strict=True):
                slow.lerp_(fast, FOLLOW)
        return float(loss.detach())

    def _best(self, state: Floats) -> int:
        with torch.no_grad():
            return int(self._net(torch.from_numpy(state).float()).argmax())

    def greedy(self) -> Callable[[Floats], int]:
        """See `Chooser.greedy`."""
        return self._best

    def tensors(self) -> dict[str, Floats]:
        """The layers, as `cra_operator.controller.policies.double_dqn` reads them."""
        linear = [layer for layer in self._net if isinstance(layer, nn.Linear)]
        found = {}
        for i, layer in enumerate(linear):
            found[f"weight{i}"] = layer.weight.detach().double().numpy()
            found[f"bias{i}"] = layer.bias.detach().double().numpy()
        return found

    def snapshot(self) -> Snapshot:
        """See `Learner`."""
        return {
            "net": {key: value.clone() for key, value in self._net.state_dict().items()},
            "slow": {key: value.clone() for key, value in self._slow.state_dict().items()},
            "optimizer": self._optimizer.state_dict(),
            "memory": self._memory[: min(self._remembered, MEMORY)].clone(),
            "remembered": self._remembered,
            "done": self._done,
            "random": random_state(self._random),
        }

    def restore(self, snapshot: Snapshot) -> None:
        """See `Learner`."""
        self._net.load_state_dict(snapshot["net"])
        self._slow.load_state_dict(snapshot["slow"])
        self._optimizer.load_state_dict(snapshot["optimizer"])
        self._memory[: len(snapshot["memory"])] = snapshot["memory"]
        self._remembered, self._done = snapshot["remembered"], snapshot["done"]
        restore_random(self._random, snapshot["random"])


def _network() -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(NUMBERS, WIDTH),
        nn.Tanh(),
        nn.Linear(WIDTH, WIDTH),
        nn.Tanh(),
        nn.Linear(WIDTH, len(ACTIONS)),
    )
