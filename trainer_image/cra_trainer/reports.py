"""What follows from a report of how good the model is: metrics of the group, the goal, weights of tasks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from cra_trainer import progress
from cra_trainer.allocation.shares import Floats
from cra_trainer.allocation.tasks import TaskWeights
from cra_trainer.config import Training
from cra_trainer.evaluation import Classification, by_name
from cra_trainer.measures import Measure, distances, flatten, merge, performances
from cra_trainer.state import Position


class Report:
    """One report, as this rank makes it.

    Args:
        classification: Right and wrong answers over this rank's own samples, if the script counts them; its
            accuracy is one of the measures.
        measures: What else it reports, by name.
    """

    def __init__(self, classification: Classification | None, measures: Mapping[str, Measure]) -> None:
        accuracy = {} if classification is None else {"accuracy": classification.accuracy}
        self._measures: dict[str, Measure] = {**accuracy, **measures}
        self._classes = () if classification is None else tuple(classification.names)
        self._counts: list[float] = [] if classification is None else classification.counts.ravel().tolist()

    @property
    def numbers(self) -> list[float]:
        """What the other ranks have to know; `table` below has those of all, [ranks, numbers]."""
        return [*flatten(self._measures), *self._counts]

    def merged(self, table: Floats) -> dict[str, float]:
        """The group's metrics."""
        return merge(self._measures, table)

    def performances(self, table: Floats, training: Training) -> Floats | None:
        """Each rank's performance P, as `measures.performances`."""
        return performances(self._measures, table, training)

    def entered(self, position: Position, table: Floats, training: Training) -> Position:
        """The position of the training with what this report says."""
        merged = self.merged(table)
        after = replace(
            position,
            goal=progress.judge(position.goal, merged, training),
            metrics={**position.metrics, **merged},
        )
        if not self._classes:
            return after
        counts = table[:, -len(self._counts) :].sum(axis=0).reshape(3, -1)
        return replace(after, classes=by_name(counts, self._classes))


def line(position: Position, merged: Mapping[str, float], epochs: int, rate: float | None) -> str:
    """A report in words."""
    cursor, goal = position.cursor, position.goal
    metrics = ", ".join(f"{name} {value:.4g}" for name, value in merged.items())
    end = f"; training ends: {goal.reason}" if goal.reason else ""
    at = f"epoch {min(cursor.epoch + 1, epochs)} of {epochs}, step {cursor.step}"
    return f"{at}: {metrics} ({rate or 0.0:.0f} samples/s){end}"


def judge_tasks(tasks: Iterable[TaskWeights], merged: Mapping[str, float], training: Training) -> list[str]:
    """Let the weights of tasks follow how well each is done; returns what became of them, in words."""
    found = []
    for weights in tasks:
        errors = distances(weights.measures, merged, training)
        if errors is None:
            continue
        weights.judge(errors)
        told = "; ".join(
            "{task} performance {performance:.3g} ({grade}), weight {weight:.3g}".format(**one)
            for one in weights.explain()
        )
        found.append(f"tasks: {told}")
    return found
