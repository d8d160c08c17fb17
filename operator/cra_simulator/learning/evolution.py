"""CMA-ES (Hansen, *The CMA Evolution Strategy: A Tutorial*, 2016): learning without gradients, as a control.

    x_k = m + sigma * B D z_k       candidates, in mirrored pairs (Brockhoff et al., PPSN 2010)
    m  <- m + sigma * sum_k w_k y_k over the better half, y_k = B D z_k
    C and sigma follow the paths that m takes

What one number does drowns in noise when single decisions are judged, but not when all candidates play whole
episodes in the same worlds and only their ranks count. It moves the last layer, some hundred numbers, on top
of an encoder that stays random.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from cra_operator.controller.policies.network import OUT, Weights
from cra_operator.controller.policy import Floats
from cra_simulator.learning.learner import Snapshot, Task, random_state, restore_random
from cra_simulator.learning.score import episode, flatten, no_weights, replaced, score

WORLDS = 5
"""That each generation plays."""
SIGMA = 0.1
SCALES = {"out_job": 0.4, "out_attention": 0.4}
"""How far parameters are moved at first, relative to the others: what is plain in a token is tried first."""


class Evolution:
    """Searches in the last layer of the network; the other parameters stay.

    Args:
        task: What it learns.
    """

    def __init__(self, task: Task) -> None:
        self._make_world, self._rule = task.make_world, task.rule
        self._start, self._score, self._seed = task.start, task.score, task.seed
        self._random = np.random.default_rng(task.seed)
        self._mean = flatten(task.start, OUT)
        n = len(self._mean)
        self._sigma = SIGMA
        self._generation = 0
        self._path_c, self._path_s = np.zeros(n), np.zeros(n)
        self._covariance = np.diag(
            np.concatenate(
                [np.full(getattr(task.start, name).size, SCALES.get(name, 1.0) ** 2) for name in OUT]
            )
        )
        self._set_constants(n)
        self._decompose()

    def _set_constants(self, n: int) -> None:
        """Hansen's defaults, the number of candidates made even."""
        half = (4 + int(3 * np.log(n)) + 1) // 2
        self._pairs = half
        raw = np.log(half + 0.5) - np.log(np.arange(1, half + 1))
        self._shares = raw / raw.sum()
        mass = self._mass = 1 / (self._shares**2).sum()
        self._cc = (4 + mass / n) / (n + 4 + 2 * mass / n)
        self._cs = (mass + 2) / (n + mass + 5)
        self._c1 = 2 / ((n + 1.3) ** 2 + mass)
        self._cm = min(1 - self._c1, 2 * (mass - 2 + 1 / mass) / ((n + 2) ** 2 + mass))
        self._damping = 1 + 2 * max(0.0, ((mass - 1) / (n + 1)) ** 0.5 - 1) + self._cs
        self._expected = n**0.5 * (1 - 1 / (4 * n) + 1 / (21 * n * n))

    def _decompose(self) -> None:
        values, self._axes = np.linalg.eigh((self._covariance + self._covariance.T) / 2)
        self._lengths = np.sqrt(np.maximum(values, 1e-12))

    def step(self) -> Mapping[str, float]:
        """One generation."""
        first = self._seed * 1_000_000 + self._generation * WORLDS
        worlds = [self._make_world(first + i) for i in range(WORLDS)]
        references = [episode(world, no_weights(), self._rule) for world in worlds]
        z = self._random.normal(size=(self._pairs, len(self._mean)))
        y = (np.concatenate([z, -z]) * self._lengths) @ self._axes.T
        costs = np.empty(len(y))
        for i, candidate in enumerate(y):
            weights = self._weights(self._mean + self._sigma * candidate)
            played = [episode(world, weights, self._rule) for world in worlds]
            costs[i] = np.mean([score(*pair) for pair in zip(played, references, strict=True)])
        self._update(y[np.argsort(costs, kind="stable")[: self._pairs]])
        return {
            "episodes": float(WORLDS * (len(y) + 1)),
            "cost": float(costs.mean()),
            "best": float(costs.min()),
            "sigma": self._sigma,
        }

    def _update(self, better: Floats) -> None:
        moved = self._shares @ better
        self._mean = self._mean + self._sigma * moved
        self._generation += 1
        whitened = self._axes @ ((self._axes.T @ moved) / self._lengths)
        cs, cc = self._cs, self._cc
        self._path_s = (1 - cs) * self._path_s + np.sqrt(cs * (2 - cs) * self._mass) * whitened
        length = float(np.linalg.norm(self._path_s))
        usual = length / np.sqrt(1 - (1 - cs) ** (2 * self._generation)) / self._expected
        slow = usual < 1.4 + 2 / (len(moved) + 1)
        self._path_c = (1 - cc) * self._path_c + slow * np.sqrt(cc * (2 - cc) * self._mass) * moved
        lost = (not slow) * cc * (2 - cc)
        self._covariance = (
            (1 - self._c1 - self._cm) * self._covariance
            + self._c1 * (np.outer(self._path_c, self._path_c) + lost * self._covariance)
            + self._cm * (better.T * self._shares) @ better
        )
        self._sigma *= float(np.exp(min(cs / self._damping * (length / self._expected - 1), 0.3)))
        self._decompose()

    def _weights(self, vector: Floats) -> Weights:
        return replaced(self._start, OUT, vector)

    def score(self) -> float:
        """See `Learner`."""
        return self._score(self._weights(self._mean))

    def tensors(self) -> dict[str, Floats]:
        """See `Learner`."""
        return self._weights(self._mean)._asdict()

    def snapshot(self) -> Snapshot:
        """See `Learner`."""
        return {
            "mean": self._mean,
            "sigma": self._sigma,
            "generation": self._generation,
            "path_c": self._path_c,
            "path_s": self._path_s,
            "covariance": self._covariance,
            "random": random_state(self._random),
        }

    def restore(self, snapshot: Snapshot) -> None:
        """See `Learner`."""
        self._mean, self._sigma = snapshot["mean"], snapshot["sigma"]
        self._generation = snapshot["generation"]
        self._path_c, self._path_s = snapshot["path_c"], snapshot["path_s"]
        self._covariance = snapshot["covariance"]
        restore_random(self._random, snapshot["random"])
        self._decompose()
