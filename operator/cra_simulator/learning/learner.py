"""What every learner can do, so that one loop trains them all (`train`).

A learner works in steps, each a few episodes. Between steps all that it knows is in its snapshot, random
numbers included: a run that is interrupted and resumed ends as one that was not.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from cra_operator.controller.policies.network import Weights
from cra_operator.controller.policy import Floats
from cra_simulator.learning.episode import Rule, World

Snapshot = dict[str, Any]
"""Arrays, tensors, numbers and strings, and dictionaries of them, as `torch.save` keeps them."""


class Learner(Protocol):
    """One way to learn."""

    def step(self) -> Mapping[str, float]:
        """Learn from a few episodes; returns numbers to be logged, `episodes` among them."""

    def score(self) -> float:
        """Of what was learned so far, on worlds that are not trained on; lower is better."""

    def tensors(self) -> dict[str, Floats]:
        """What was learned so far, as it is shipped."""

    def snapshot(self) -> Snapshot:
        """All that `step` depends on."""

    def restore(self, snapshot: Snapshot) -> None:
        """Go on from a snapshot."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """What a learner of the attention network is given.

    Attributes:
        make_world: From a seed to a training world.
        practice: Plain training worlds, to begin with.
        rule: What the network is put on; it scores 1.
        start: The network to begin with; its last layer is zero for the rule itself.
        score: How good weights are on worlds that are not trained on.
        seed: Of everything.
    """

    make_world: Callable[[int], World]
    practice: Sequence[World]
    rule: Rule
    start: Weights
    score: Callable[[Weights], float]
    seed: int


def random_state(draws: np.random.Generator) -> str:
    """The state of a generator, as text: it has integers that are too large for arrays."""
    return repr(draws.bit_generator.state)


def restore_random(draws: np.random.Generator, state: str) -> None:
    """Undo `random_state`."""
    draws.bit_generator.state = ast.literal_eval(state)
