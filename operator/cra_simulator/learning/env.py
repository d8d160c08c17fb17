"""The cluster as a gymnasium environment: every ten minutes a preset of the rule is chosen for all jobs.

The reward of a step is minus the time that jobs spent in the system during it, so the return of an episode is
minus the mean completion time, whatever the policy does; it is divided by that of the untuned rule in the
same world, which takes out most of what differs between worlds (the input-dependent baseline of Decima, Mao
et al., SIGCOMM 2019). At the end `info` has that ratio and the reward R = alpha/T + beta/C by which users
judge (`controller_reward`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np

from cra_operator.controller.policies.choosing import ACTIONS, NUMBERS, SECONDS
from cra_operator.controller.policies.goodput import UNTUNED, Preset
from cra_operator.controller.policies.network import OUTPUTS
from cra_operator.controller.policy import Floats
from cra_simulator.learning.episode import Rule, State, World, begin, look, run
from cra_simulator.learning.score import episode, no_weights

MakeWorld = Callable[[int], World]
"""From a seed to a world."""


def rule_of(preset: Preset) -> Rule:
    """A preset that is trusted at every load."""
    return Rule(preset.favour, preset.concavity, preset.damping, preset.lost, -np.inf, np.inf)


def controller_reward(world: World, state: State, *, alpha: float = 1.0, beta: float = 1.0) -> float:
    """R = alpha/T + beta/C, the mean over jobs, weighted by utilisation.

    T is the completion time and C the GPU time, each over the time that one GPU would take at the goodput of
    the last epoch, so that R does not depend on how large jobs are; utilisation is the part of all GPU time
    until the end that jobs held.
    """
    last = world.epochs[world.table] - 1
    alone = world.work[world.table] / np.maximum(world.seen_base[world.seen, last], 1e-9)
    spent = state.ended - world.submitted
    used = float(state.gpu_seconds.sum() / (world.capacity.sum() * state.ended.max()))
    return used * float(np.mean(alpha * alone / spent + beta * alone / np.maximum(state.gpu_seconds, 1.0)))


class ClusterEnv(gymnasium.Env[Floats, np.int64]):
    """One episode is one world, from its first submission to the end of its last job.

    Args:
        make_world: From the seed of an episode to its world.
        seed: Of the first episode; each reset goes on by one.
    """

    def __init__(self, make_world: MakeWorld, *, seed: int = 0) -> None:
        self.observation_space = gymnasium.spaces.Box(-3.0, 3.0, (NUMBERS,), np.float64)
        self.action_space = gymnasium.spaces.Discrete(len(ACTIONS))
        self._make_world = make_world
        self._next = seed
        self._weights = no_weights()
        self._rules = [rule_of(preset) for preset in ACTIONS]

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Floats, dict[str, Any]]:
        """See `gymnasium.Env.reset`; a seed names the world."""
        super().reset(seed=seed)
        self._next = self._next if seed is None else seed
        self._world = self._make_world(self._next)
        self._next += 1
        self._state = begin(self._world)
        self._quiet = np.zeros((len(self._world.submitted), OUTPUTS))
        self._reference = episode(self._world, self._weights, rule_of(UNTUNED)).mean
        run(self._world, self._state, self._weights, self._rules[0], self._quiet, 1)
        return self._observe(), {}

    def step(self, action: np.int64) -> tuple[Floats, float, bool, bool, dict[str, Any]]:
        """See `gymnasium.Env.step`."""
        jobs, before = len(self._world.submitted), float(self._state.cost[0])
        ticks = round(SECONDS / self._world.interval)
        done = run(self._world, self._state, self._weights, self._rules[int(action)], self._quiet, ticks)
        reward = (before - float(self._state.cost[0])) / jobs / self._reference
        info: dict[str, Any] = {}
        if done:
            info["over_rule"] = float(self._state.cost[0]) / jobs / self._reference
            info["reward"] = controller_reward(self._world, self._state)
        return self._observe(), reward, done, False, info

    def _observe(self) -> Floats:
        if self._state.counts[0] == 0:
            return np.full(NUMBERS, -3.0)
        return look(self._world, self._state)[1]
