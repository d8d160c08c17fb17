"""CMA-ES (Hansen, *The CMA Evolution Strategy: A Tutorial*, 2016), the search itself.

    x_k = m + sigma * B D z_k       candidates, in mirrored pairs (Brockhoff et al., PPSN 2010)
    m  <- m + sigma * sum_k w_k y_k over the better half, y_k = B D z_k

The covariance C = B D^2 B' and sigma follow the paths that m takes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from cra_operator.controller.policy import Floats


class Cma:
    """Looks for the vector that costs least.

    Args:
        mean: Where it begins, [n].
        spread: How far each number is moved at first, relative to the others, [n].
        sigma: How far all are.
    """

    def __init__(self, mean: Floats, spread: Floats, sigma: float) -> None:
        self.mean, self.sigma = mean, sigma
        self._generation = 0
        self._path_c, self._path_s = np.zeros(len(mean)), np.zeros(len(mean))
        self._covariance = np.diag(spread**2)
        self._set_constants(len(mean))
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

    def ask(self, random: np.random.Generator) -> Floats:
        """Candidates to be judged, [K, n]."""
        z = random.normal(size=(self._pairs, len(self.mean)))
        self._moves = (np.concatenate([z, -z]) * self._lengths) @ self._axes.T
        found: Floats = self.mean + self.sigma * self._moves
        return found

    def tell(self, costs: Floats) -> None:
        """What those candidates cost, [K]."""
        better = self._moves[np.argsort(costs, kind="stable")[: self._pairs]]
        moved = self._shares @ better
        self.mean = self.mean + self.sigma * moved
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
        self.sigma *= float(np.exp(min(cs / self._damping * (length / self._expected - 1), 0.3)))
        self._decompose()

    def snapshot(self) -> dict[str, Any]:
        """Everything that `restore` needs in another search of as many numbers."""
        return {
            "mean": self.mean,
            "sigma": self.sigma,
            "generation": self._generation,
            "path_c": self._path_c,
            "path_s": self._path_s,
            "covariance": self._covariance,
        }

    def restore(self, snapshot: Mapping[str, Any]) -> None:
        """Go on from there."""
        self.mean, self.sigma, self._generation = (snapshot[name] for name in ("mean", "sigma", "generation"))
        self._path_c, self._path_s = snapshot["path_c"], snapshot["path_s"]
        self._covariance = snapshot["covariance"]
        self._decompose()
