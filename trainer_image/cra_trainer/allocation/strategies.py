"""Interchangeable ways to split work over nodes, behind one protocol.

``uniform``, ``random``, ``fixed``, ``parameters`` and ``data`` are the initial strategies: their shares
follow from what is given and stay. ``round-robin`` and ``priority`` deal in turn what nodes compete for, so
that also what does not divide evenly comes out even over time. ``attention`` weighs the measured capability:
p = softmax(a + log c), with scores a that learn online.

What the scores learn from is the time of a step, the maximum over the nodes of t_i = s_i + p_i·u_i, where u_i
is the measured time for all of the work and s_i what a step costs the node without any. The gradient of a
smooth maximum, averaged over the measured steps, is a stochastic gradient of the expected step time; so it
sees what an average speed cannot: a node whose time varies costs more than a steady one, and where all vary,
the last unit on a slow node costs more than on a fast one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
import torch

from cra_trainer.allocation.attention import NodeScorer, Similarity
from cra_trainer.allocation.shares import Floats, shares, softmax
from cra_trainer.allocation.turns import Turns
from cra_trainer.data import mix

Learning = Literal["gradient", "reward"]


@dataclass(frozen=True, kw_only=True)
class Nodes:
    """What is known of n nodes.

    Attributes:
        capability: Measured units of work per second, [n], above 0.
        features: What attention looks at, [n, len(FEATURES)].
        demand: What the job asks for, [len(DEMAND)].
        parameters: Trainable parameters that each node holds, [n].
        data: Samples that each node holds, [n].
        most: Largest share that each node has memory for, [n].
    """

    capability: Floats
    features: Floats
    demand: Floats
    parameters: Floats
    data: Floats
    most: Floats


FEATURES = ("log speed", "variation", "memory headroom", "waiting", "log share")
DEMAND = ("bias", "log rows per rank", "variation")


@dataclass(frozen=True, kw_only=True)
class Allocation:
    """A split: weights w (sum 1), shares p (sum 1), and the scores a behind them where there are any."""

    weights: Floats
    shares: Floats
    scores: Floats | None = None


@dataclass(frozen=True, kw_only=True)
class Matrices:
    """What attention looked at; every row sums to 1.

    Attributes:
        among: How much each node looks at each, [heads, n, n].
        towards: How much the demand looks at each node, [heads, n].
    """

    among: Floats
    towards: Floats


class Strategy(Protocol):
    """A way to split work over nodes."""

    def allocate(self, nodes: Nodes) -> Allocation:
        """The split for these nodes; the same nodes and state give the same split."""
        ...

    def learn(self, nodes: Nodes, seconds: Floats, fixed: Floats) -> None:
        """Take in steps that were measured since the last time.

        Args:
            nodes: What is known of the nodes.
            seconds: What each step's whole work would have taken each node, [steps, n].
            fixed: And what it would have taken without any, [steps, n].
        """
        ...

    def matrices(self, nodes: Nodes) -> Matrices | None:
        """What attention looks at, if there is any."""
        ...

    @property
    def advantage(self) -> float:
        """Part of a step's time that what was learned saves."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """What has been learned, as tensors and plain values."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what was learned."""
        ...


@dataclass(frozen=True)
class _Given:
    """A split that nothing measured changes."""

    def learn(self, nodes: Nodes, seconds: Floats, fixed: Floats) -> None:
        """Nothing to learn."""

    def matrices(self, nodes: Nodes) -> None:
        """No attention."""

    @property
    def advantage(self) -> float:
        return 0.0

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Nothing was learned."""


def _proportional(amounts: Floats) -> Allocation:
    p = amounts / amounts.sum()
    return Allocation(weights=p, shares=p)


@dataclass(frozen=True)
class Uniform(_Given):
    """Every node the same."""

    def allocate(self, nodes: Nodes) -> Allocation:
        return _proportional(np.ones(len(nodes.capability)))


@dataclass(frozen=True)
class Random(_Given):
    """Shares drawn once from the seed, the largest at most thrice the smallest."""

    seed: int = 0

    def allocate(self, nodes: Nodes) -> Allocation:
        return _proportional(np.random.default_rng(self.seed).uniform(0.5, 1.5, len(nodes.capability)))


@dataclass(frozen=True)
class Fixed(_Given):
    """Shares in proportion to given weights; with more nodes than weights, the weights repeat."""

    weights: Sequence[float] = field(default=(1.0,))

    def allocate(self, nodes: Nodes) -> Allocation:
        return _proportional(np.resize(np.asarray(self.weights, dtype=np.float64), len(nodes.capability)))


@dataclass(frozen=True)
class ByParameters(_Given):
    """Shares in proportion to the trainable parameters that each node holds."""

    def allocate(self, nodes: Nodes) -> Allocation:
        return _proportional(nodes.parameters)


@dataclass(frozen=True)
class ByData(_Given):
    """Shares in proportion to the samples that each node holds."""

    def allocate(self, nodes: Nodes) -> Allocation:
        return _proportional(nodes.data)


class Attention:
    """p = softmax(a + log c), with scores that learn from measured step times.

    The scores are put to the test by the steps that came after them: what would these have taken with a, and
    what with a = 0? While the answer speaks against them, they learn on but are not used.

    Args:
        heads: Attention heads.
        seed: Of the initial projections, and of the changes that are tried.
        similarity: How the demand is compared with the nodes.
        rate: Learning rate of the scores.
        learn: ``gradient`` follows the gradient of the step time; ``reward`` knows the step time as a reward
            only, and climbs it by evolution strategies: pairs of opposite random changes of all parameters,
            each weighed by what it would have saved (Salimans et al. 2017, arXiv 1703.03864).

    Attributes:
        advantage: Running mean of the part of a step's time that the scores save over a = 0.
    """

    # Sharpness of the smooth maximum over times that are normalised to a mean of 1.
    SHARPNESS = 20.0
    # The pull back to a = 0: what is no longer confirmed by measurements fades.
    DECAY = 1e-3
    # Of the running mean, per test.
    MEMORY = 0.9
    # Pairs of tries for one step of learning by reward, and how far they go.
    PAIRS, STEP = 4, 0.05

    def __init__(
        self,
        *,
        heads: int = 4,
        seed: int = 0,
        similarity: Similarity = "dot",
        rate: float = 0.01,
        learn: Learning = "gradient",
    ) -> None:
        self.scorer = NodeScorer(len(FEATURES), len(DEMAND), heads=heads, seed=seed, similarity=similarity)
        # Adam: gradients are small and noisy, and their scale differs from job to job.
        self._optimizer = torch.optim.Adam(self.scorer.parameters(), lr=rate)
        self._by_reward, self._seed, self._tried = learn == "reward", seed, 0
        self.advantage = 0.0
        # Features move slowly and looking at them costs most of an allocation, so the scores of one time of
        # learning serve until the next.
        self._latest: Floats = np.zeros(0)

    def allocate(self, nodes: Nodes) -> Allocation:
        n = len(nodes.capability)
        if len(self._latest) != n:
            with torch.inference_mode():
                self._latest = self._scores(nodes).double().numpy()
        scores = self._latest if self.advantage > 0 else np.zeros(n)
        # Where the batch is too large for all memory together, each rank gets its part of that.
        most = nodes.most / min(nodes.most.sum(), 1.0)
        p = shares(scores, nodes.capability, hi=most)
        return Allocation(weights=softmax(scores), shares=p, scores=scores)

    def matrices(self, nodes: Nodes) -> Matrices:
        """What the scores look at, for a person to see."""
        with torch.inference_mode():
            features, demand = self._tensors(nodes)
            among, towards = self.scorer.matrices(features, demand)
        return Matrices(among=among.double().numpy(), towards=towards.double().numpy())

    def learn(self, nodes: Nodes, seconds: Floats, fixed: Floats) -> None:
        with torch.enable_grad():
            scores = self._scores(nodes)
            self._latest = scores.detach().double().numpy()
            self._test(self._latest, nodes.capability, seconds, fixed)
            if self._by_reward:
                self._climb(nodes, seconds, fixed)
            else:
                cost = self._cost(scores, nodes, seconds, fixed)
                cost.backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()
        self._optimizer.zero_grad()

    def _cost(self, scores: torch.Tensor, nodes: Nodes, seconds: Floats, fixed: Floats) -> torch.Tensor:
        """The steps' smooth maximum over the nodes, as a part of their mean time, and the pull to a = 0."""
        p = (scores + torch.from_numpy(np.log(nodes.capability)).float()).softmax(dim=0)
        times = torch.from_numpy(fixed).float() + p * torch.from_numpy(seconds).float()
        times = times / times.detach().mean()
        smooth_max = torch.logsumexp(self.SHARPNESS * times, dim=1).mean() / self.SHARPNESS
        return smooth_max + self.DECAY * (scores**2).sum()

    @torch.no_grad()
    def _climb(self, nodes: Nodes, seconds: Floats, fixed: Floats) -> None:
        """Leave in the parameters the gradient that `PAIRS` of tries give."""
        parameters = list(self.scorer.parameters())
        for parameter in parameters:
            parameter.grad = torch.zeros_like(parameter)
        self._tried += 1
        # The same on every rank, and after a checkpoint.
        generator = torch.Generator().manual_seed(mix(self._seed, self._tried))
        for _ in range(self.PAIRS):
            changes = [torch.randn(p.shape, generator=generator) * self.STEP for p in parameters]
            costs = []
            for sign in (1.0, -2.0):
                for parameter, change in zip(parameters, changes, strict=True):
                    parameter.add_(change, alpha=sign)
                costs.append(float(self._cost(self._scores(nodes), nodes, seconds, fixed)))
            weight = (costs[0] - costs[1]) / (2 * self.PAIRS * self.STEP**2)
            for parameter, change in zip(parameters, changes, strict=True):
                parameter.add_(change)
                assert parameter.grad is not None
                parameter.grad.add_(change, alpha=weight)

    def _test(self, scores: Floats, capability: Floats, seconds: Floats, fixed: Floats) -> None:
        """Compare the scores with none, on steps that they have not learned from."""
        with_scores, without = (
            float((fixed + shares(a, capability) * seconds).max(axis=1).mean()) for a in (scores, 0 * scores)
        )
        saved = 1 - with_scores / without
        self.advantage = self.MEMORY * self.advantage + (1 - self.MEMORY) * saved

    def _scores(self, nodes: Nodes) -> torch.Tensor:
        scores: torch.Tensor = self.scorer(*self._tensors(nodes))
        return scores

    def _tensors(self, nodes: Nodes) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.from_numpy(nodes.features).float(), torch.from_numpy(nodes.demand).float()

    def state_dict(self) -> dict[str, Any]:
        return {
            "scorer": self.scorer.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "advantage": self.advantage,
            "tried": self._tried,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.scorer.load_state_dict(state["scorer"])
        self._optimizer.load_state_dict(state["optimizer"])
        self.advantage, self._latest = state["advantage"], np.zeros(0)
        self._tried = state["tried"]


@dataclass(frozen=True)
class InTurn(_Given):
    """Units dealt one at a time, each node's turns in proportion to its priority: see `turns`.

    With more nodes than priorities, these repeat.
    """

    priorities: Sequence[float] = field(default=(1.0,))

    def allocate(self, nodes: Nodes) -> Allocation:
        return _proportional(self._of(len(nodes.capability)))

    def turns(self, n: int) -> Turns:
        """The order of turns of n nodes."""
        return Turns(self._of(n).tolist())

    def _of(self, n: int) -> Floats:
        return np.resize(np.asarray(self.priorities, dtype=np.float64), n)


def make_strategy(
    name: str,
    *,
    heads: int = 4,
    learn: Learning = "gradient",
    weights: Sequence[float] = (),
    seed: int = 0,
) -> Strategy:
    """The strategy of ``spec.allocator.ranks``."""
    strategies: dict[str, Strategy] = {
        "uniform": Uniform(),
        "random": Random(seed),
        "fixed": Fixed(weights or (1.0,)),
        "parameters": ByParameters(),
        "data": ByData(),
        "round-robin": InTurn(),
        "priority": InTurn(weights or (1.0,)),
    }
    return strategies[name] if name in strategies else Attention(heads=heads, seed=seed, learn=learn)
