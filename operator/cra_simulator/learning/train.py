"""Train a policy: the same loop for every learner.

It runs steps until the budget is used or nothing gets better any more, logs to TensorBoard, keeps a
checkpoint from which an interrupted run goes on as if it had not been, and returns what scored best on the
validation worlds.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.tensorboard import SummaryWriter

from cra_simulator.learning.learner import Learner

CHECKPOINT = "checkpoint.pt"


@dataclass(frozen=True, kw_only=True)
class Budget:
    """When a run ends.

    Attributes:
        steps: After so many steps of the learner.
        check_every: How many steps lie between validations.
        patience: After so many validations that did not improve by `least`; 0 for never.
        least: What counts as an improvement, relative.
    """

    steps: int
    check_every: int = 10
    patience: int = 0
    least: float = 1e-3


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What came of a run.

    Attributes:
        tensors: What scored best.
        score: How it scored; lower is better.
        first_score: How the learner scored before its first step.
        steps: Steps that were made.
        episodes: Episodes that were played.
        seconds: CPU time.
        converged: Whether it ended because nothing got better.
    """

    tensors: dict[str, Any]
    score: float
    first_score: float
    steps: int
    episodes: float
    seconds: float
    converged: bool


def train(
    make: Callable[[], Learner],
    budget: Budget,
    out: Path,
    *,
    report: Callable[[str], None] = lambda line: None,
) -> Trained:
    """Run a learner, or go on with one.

    Args:
        make: Makes the learner, always the same.
        budget: How long.
        out: A folder for the checkpoint and the logs; a checkpoint that is there is gone on from.
        report: Takes a line for people after each validation.
    """
    learner, book = make(), _Book()
    out.mkdir(parents=True, exist_ok=True)
    checkpoint = out / CHECKPOINT
    if checkpoint.exists():
        kept = _unpacked(torch.load(checkpoint, weights_only=True))
        learner.restore(kept["learner"])
        book = _Book(**kept["book"])
    writer = SummaryWriter(str(out), purge_step=book.steps + 1)
    try:
        if not book.scores:
            book.check(learner)
            writer.add_scalar("score", book.scores[-1], 0)
        while book.steps < budget.steps and not book.converged(budget):
            began = time.process_time()
            numbers = dict(learner.step())
            book.steps += 1
            book.episodes += numbers.pop("episodes")
            for name, value in numbers.items():
                writer.add_scalar(name, value, book.steps)
            if book.steps % budget.check_every == 0 or book.steps == budget.steps:
                book.check(learner)
                writer.add_scalar("score", book.scores[-1], book.steps)
                report(
                    f"step {book.steps}: score {book.scores[-1]:.4f}, best {book.best:.4f}, "
                    f"{book.episodes:.0f} episodes, {book.seconds:.0f} s"
                )
            book.seconds += time.process_time() - began
            if book.steps % budget.check_every == 0:
                _save(checkpoint, {"learner": learner.snapshot(), "book": vars(book)})
    finally:
        writer.close()
    return Trained(
        tensors=book.tensors, score=book.best, first_score=book.scores[0], steps=book.steps,
        episodes=book.episodes, seconds=book.seconds, converged=book.converged(budget),
    )  # fmt: skip


@dataclass
class _Book:
    """What a run knows about itself."""

    steps: int = 0
    episodes: float = 0.0
    seconds: float = 0.0
    scores: list[float] = field(default_factory=list)
    best: float = float("inf")
    tensors: dict[str, Any] = field(default_factory=dict)

    def check(self, learner: Learner) -> None:
        """Validate, and keep what is best."""
        self.scores.append(learner.score())
        if self.scores[-1] < self.best:
            self.best, self.tensors = self.scores[-1], learner.tensors()

    def converged(self, budget: Budget) -> bool:
        """Have the last validations brought nothing?"""
        if not budget.patience or len(self.scores) <= budget.patience:
            return False
        before = min(self.scores[: -budget.patience])
        return min(self.scores[-budget.patience :]) > before * (1 - budget.least)


def _save(path: Path, content: dict[str, Any]) -> None:
    """Write a checkpoint whole or not at all."""
    fresh = path.with_suffix(".new")
    torch.save(_packed(content), fresh)
    fresh.replace(path)


def _packed(value: Any) -> Any:
    """Arrays as tensors, which can be read without running code; marked, so that they become arrays again."""
    if isinstance(value, np.ndarray):
        return {"array": torch.from_numpy(value.copy())}
    if isinstance(value, dict):
        return {key: _packed(item) for key, item in value.items()}
    return value


def _unpacked(value: Any) -> Any:
    if isinstance(value, dict):
        if value.keys() == {"array"}:
            return value["array"].numpy()
        return {key: _unpacked(item) for key, item in value.items()}
    return value
