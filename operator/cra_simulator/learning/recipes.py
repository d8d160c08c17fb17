"""What is trained, how, and for how long.

`make` gives a learner for each name; `BUDGETS` are those of `make train`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import numpy as np

from cra_operator.controller.policies.goodput import TUNED
from cra_operator.controller.policies.network import Weights
from cra_simulator.learning.a3c import A3c
from cra_simulator.learning.double_dqn import DoubleDqn
from cra_simulator.learning.env import ClusterEnv
from cra_simulator.learning.episode import Rule, World
from cra_simulator.learning.evolution import Evolution
from cra_simulator.learning.learner import Learner, Task
from cra_simulator.learning.ppo import Ppo
from cra_simulator.learning.q_learning import QLearning
from cra_simulator.learning.sarsa import Sarsa
from cra_simulator.learning.score import Outcome, episode, no_weights, random_weights, score
from cra_simulator.learning.train import Budget

SEED = 1
"""Of the weights that are shipped."""
LEAST_LOAD, MOST_LOAD = -2.0, 3.2
"""Range of `load_of` in training."""
RULE = Rule(TUNED.favour, TUNED.concavity, TUNED.damping, TUNED.lost, LEAST_LOAD, MOST_LOAD)
"""What networks are put on."""
EPISODES = 300
"""Of the learners that choose presets."""


class Lessons(Protocol):
    """What is learned in, as `cra_simulator.learning.worlds.Curriculum` has it."""

    @property
    def validation(self) -> dict[float, list[World]]:
        """Worlds that score, by load."""

    @property
    def practice(self) -> list[World]:
        """Plain worlds to learn in."""

    def draw(self, seed: int) -> World:
        """A world to learn in."""


def make(name: str, seed: int, curriculum: Lessons) -> Learner:
    """A learner.

    Args:
        name: One of `BUDGETS`.
        seed: Of everything.
        curriculum: What it learns in.

    Raises:
        ValueError: There is no such learner.
    """
    if name in NETWORKS:
        judge = Judge(curriculum.validation)
        return NETWORKS[name](
            Task(
                make_world=curriculum.draw,
                practice=curriculum.practice,
                rule=RULE,
                start=random_weights(0),
                score=judge,
                seed=seed,
            )
        )
    if name not in CHOOSERS:
        raise ValueError(f"there is no learner {name!r}; there are {', '.join(BUDGETS)}")
    worlds = [world for found in curriculum.validation.values() for world in found]
    env, validation = ClusterEnv(curriculum.draw), ClusterEnv(lambda seed: worlds[seed])
    return CHOOSERS[name](env, validation, range(len(worlds)), EPISODES, seed)


class Judge:
    """Scores weights: the mean over loads of how they do relative to the rule.

    Args:
        worlds: By load.
    """

    def __init__(self, worlds: Mapping[float, list[World]]) -> None:
        self._worlds = worlds
        self._reference: dict[float, list[Outcome]] = {}

    def __call__(self, weights: Weights) -> float:
        if not self._reference:
            self._reference = self._play(no_weights())
        found = self._play(weights)
        return float(
            np.mean([
                score(mean_of(found[load]), mean_of(self._reference[load])) for load in self._worlds
            ])
        )  # fmt: skip

    def _play(self, weights: Weights) -> dict[float, list[Outcome]]:
        return {
            load: [episode(world, weights, RULE) for world in found] for load, found in self._worlds.items()
        }


def mean_of(outcomes: list[Outcome]) -> Outcome:
    """The mean over workloads."""
    return Outcome(
        mean=float(np.mean([outcome.mean for outcome in outcomes])),
        p99=float(np.mean([outcome.p99 for outcome in outcomes])),
        makespan=float(np.mean([outcome.makespan for outcome in outcomes])),
    )


NETWORKS: Mapping[str, Callable[[Task], Learner]] = {"evolution": Evolution, "ppo": Ppo, "a3c": A3c}
"""Learners of the attention network."""
CHOOSERS: Mapping[str, Callable[..., Learner]] = {
    "q-learning": QLearning,
    "sarsa": Sarsa,
    "double-dqn": DoubleDqn,
}
"""Learners that choose presets."""
BUDGETS: Mapping[str, Budget] = {
    "evolution": Budget(steps=44, check_every=2, patience=12),
    "ppo": Budget(steps=60, check_every=10, patience=8),
    "a3c": Budget(steps=60, check_every=20, patience=6),
    "q-learning": Budget(steps=EPISODES, check_every=100, patience=4),
    "sarsa": Budget(steps=EPISODES, check_every=100, patience=4),
    "double-dqn": Budget(steps=EPISODES, check_every=100, patience=4),
}
