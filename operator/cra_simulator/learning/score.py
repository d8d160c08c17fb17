"""How good is a policy in a world? Everything is relative to the rule without a network in the same world.

A score is mean completion time, and a little of the slowest jobs and of the makespan, which a policy that
only minds the mean would sacrifice; lower is better, and the rule itself scores 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cra_operator.controller.policies.network import OUTPUTS, SHAPES, Weights
from cra_operator.controller.policy import Floats
from cra_simulator.learning.episode import Rule, World, begin, run

P99 = 0.2
MAKESPAN = 0.15
_MOST_TICKS = 5_000
_NEVER = 1e7


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Of one episode, in seconds."""

    mean: float
    p99: float
    makespan: float


def episode(world: World, weights: Weights, rule: Rule, noise: Floats | None = None) -> Outcome:
    """Run a world to its end."""
    state = begin(world)
    if noise is None:
        noise = np.zeros((len(world.submitted), OUTPUTS))
    if not run(world, state, weights, rule, noise, _MOST_TICKS):
        # GPUs go to and fro and nothing gets done.
        return Outcome(mean=_NEVER, p99=_NEVER, makespan=_NEVER)
    spent = state.ended - world.submitted
    return Outcome(
        mean=float(spent.mean()), p99=float(np.percentile(spent, 99)), makespan=float(state.ended.max())
    )


def score(outcome: Outcome, reference: Outcome) -> float:
    """Relative to a reference; 1 is as good."""
    parts = (
        outcome.mean / reference.mean
        + P99 * outcome.p99 / reference.p99
        + MAKESPAN * outcome.makespan / reference.makespan
    )
    return parts / (1 + P99 + MAKESPAN)


def no_weights() -> Weights:
    """A network that says nothing."""
    return Weights(**{name: np.zeros(shape) for name, shape in SHAPES.items()})


def random_weights(seed: int) -> Weights:
    """A network that looks at everything in random ways and says nothing: only its last layer is zero."""
    draws = np.random.default_rng(seed)
    made = {}
    for name, shape in SHAPES.items():
        spread = 0.0 if name.startswith("out_") else 1.0 if name.startswith("load_") else shape[0] ** -0.5
        made[name] = draws.normal(0.0, 1.0, shape) * spread
    return Weights(**made)


def flatten(weights: Weights, names: tuple[str, ...]) -> Floats:
    """Parts of a network as one vector."""
    return np.concatenate([getattr(weights, name).ravel() for name in names])


def replaced(weights: Weights, names: tuple[str, ...], vector: Floats) -> Weights:
    """A network with parts taken from a vector."""
    parts, at = {}, 0
    for name in names:
        shape = SHAPES[name]
        size = shape[0] * shape[1]
        parts[name] = vector[at : at + size].reshape(shape).copy()
        at += size
    return weights._replace(**parts)
