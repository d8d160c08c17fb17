"""Actors of the policy-gradient learners: they play worlds with a noisy policy and remember what they did.

An action is the network's answer for every job plus Gaussian noise that a job keeps for ten minutes: noise
that changed every minute would move GPUs to and fro, and restarts would be all that it teaches. Rewards are
those of `cra_simulator.learning.env`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cra_operator.controller.policies.choosing import SECONDS
from cra_operator.controller.policies.network import Weights
from cra_operator.controller.policies.tokens import CLUSTER, JOBS
from cra_operator.controller.policy import Floats
from cra_simulator.learning.episode import Rule, World, begin, look, run
from cra_simulator.learning.score import episode, no_weights

SPREAD = np.array([0.3, 0.1, 0.3, 0.1])
"""Standard deviation of the noise in (log w, q, h, e)."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """What an actor saw, did and got. J jobs.

    Attributes:
        x: Tokens, [J, F].
        y: State of the cluster, [C].
        left: Part of the jobs that are still to be submitted.
        noise: What was added to the network's answer, [J, 4].
        reward: Minus the time that jobs spent meanwhile.
        over: Whether the episode ended.
    """

    x: Floats
    y: Floats
    left: float
    noise: Floats
    reward: float
    over: bool


class Actor:
    """Plays one world after the other.

    Args:
        make_world: From a seed to a world.
        rule: What the network is put on.
        seed: Of the first world.
        stride: To the seed of the next.
    """

    def __init__(self, make_world: Callable[[int], World], rule: Rule, seed: int, stride: int = 1) -> None:
        self._make_world, self._rule = make_world, rule
        self.seed, self._stride = seed, stride
        self.over_rule: list[float] = []
        self._fresh = True

    def act(self, weights: Weights, draws: np.random.Generator) -> Step:
        """Ten minutes."""
        if self._fresh:
            self._begin()
        world, state = self._world, self._state
        x, y, index = look(world, state)
        jobs = len(world.submitted)
        noise = draws.normal(size=(jobs, len(SPREAD))) * SPREAD
        left, before = 1.0 - float(state.counts[1]) / jobs, float(state.cost[0])
        ticks = round(SECONDS / world.interval)
        over = run(world, state, weights, self._rule, noise, ticks)
        while not over and state.counts[0] == 0:
            over = run(world, state, weights, self._rule, noise, 1)
        reward = (before - float(state.cost[0])) / jobs / self._reference
        if over:
            self.over_rule.append(float(state.cost[0]) / jobs / self._reference)
            self.seed += self._stride
            self._fresh = True
        return Step(x=x, y=y, left=left, noise=noise[index], reward=reward, over=over)

    def now(self) -> tuple[Floats, Floats, float]:
        """Tokens, cluster and part left of the state that the actor is in."""
        if self._fresh:
            self._begin()
        x, y, _ = look(self._world, self._state)
        return x, y, 1.0 - float(self._state.counts[1]) / len(self._world.submitted)

    def _begin(self) -> None:
        self._world = self._make_world(self.seed)
        self._state = begin(self._world)
        self._reference = episode(self._world, no_weights(), self._rule).mean
        quiet = np.zeros((len(self._world.submitted), len(SPREAD)))
        run(self._world, self._state, no_weights(), self._rule, quiet, 1)
        self._fresh = False


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Steps side by side, padded to the most jobs: x [B, J, F], y [B, C], mask [B, J], left [B], noise
    [B, J, 4]."""

    x: Tensor
    y: Tensor
    mask: Tensor
    left: Tensor
    noise: Tensor

    def rows(self, rows: Tensor) -> Batch:
        """Some of them, with no more padding than they need."""
        most = int(self.mask[rows].sum(1).max())
        return Batch(
            x=self.x[rows, :most], y=self.y[rows], mask=self.mask[rows, :most], left=self.left[rows],
            noise=self.noise[rows, :most],
        )  # fmt: skip


def batch(steps: Sequence[Step]) -> Batch:
    """Steps as tensors."""
    count, most = len(steps), max(len(step.x) for step in steps)
    x, noise = np.zeros((count, most, JOBS), np.float32), np.zeros((count, most, len(SPREAD)), np.float32)
    mask, y = np.zeros((count, most), bool), np.zeros((count, CLUSTER), np.float32)
    for i, step in enumerate(steps):
        jobs = len(step.x)
        x[i, :jobs], noise[i, :jobs], mask[i, :jobs], y[i] = step.x, step.noise, True, step.y
    left = torch.tensor([step.left for step in steps], dtype=torch.float32)
    return Batch(
        x=torch.from_numpy(x), y=torch.from_numpy(y), mask=torch.from_numpy(mask), left=left,
        noise=torch.from_numpy(noise),
    )  # fmt: skip


def log_likelihood(mean: Tensor, taken: Tensor) -> Tensor:
    """Of an answer for each job under the noisy policy, up to a constant, [B, J]."""
    spread = torch.tensor(SPREAD, dtype=torch.float32)
    return -(((taken - mean) / spread) ** 2).sum(-1) / 2
