"""How well a classifier tells classes apart: counts that merge exactly over ranks, and the report they give.

Precision, recall and F1 of a class follow from three numbers: how often it was rightly said, how often it was
said, and how often it was there. Sums of those over unequal parts of a test set are those of the whole, so no
rank needs another one's predictions. The figures are those of scikit-learn's `classification_report`, which
wants all labels in one place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class Classification:
    """Counts of right and wrong answers per class, added up over the batches of an evaluation.

    Args:
        classes: The classes' names in the order of their numbers, or how many there are.

    Attributes:
        names: The classes' names.
    """

    def __init__(self, classes: int | Sequence[str]) -> None:
        count = classes if isinstance(classes, int) else len(classes)
        self.names = tuple(map(str, range(count) if isinstance(classes, int) else classes))
        self._counts: Tensor | None = None

    def add(self, predicted: Tensor, labels: Tensor) -> None:
        """Count a batch; waits for no device.

        Args:
            predicted: The classes' scores [..., classes], or the predicted classes [...].
            labels: The true classes [...].
        """
        if predicted.ndim > labels.ndim:
            predicted = predicted.argmax(dim=-1)
        predicted, labels, n = predicted.flatten(), labels.flatten(), len(self.names)
        right = torch.where(predicted == labels, labels, n)
        counts = torch.stack([torch.bincount(x, minlength=n + 1)[:n] for x in (right, predicted, labels)])
        self._counts = counts if self._counts is None else self._counts + counts

    @property
    def counts(self) -> NDArray[np.float64]:
        """How often each class was rightly said, was said, and was there, [3, classes]."""
        if self._counts is None:
            return np.zeros((3, len(self.names)))
        return np.asarray(self._counts.cpu().numpy(), dtype=np.float64)

    @property
    def accuracy(self) -> tuple[float, float]:
        """Right answers and all answers."""
        right, _, there = self.counts.sum(axis=1)
        return float(right), float(there)


@dataclass(frozen=True, kw_only=True)
class ClassScore:
    """How a class fares: F1 is the harmonic mean of precision and recall, `support` its samples."""

    precision: float
    recall: float
    f1: float
    support: int


def by_name(counts: NDArray[np.float64], names: Sequence[str]) -> dict[str, list[float]]:
    """Each class's column of `Classification.counts`, as a checkpoint can hold it."""
    return dict(zip(names, counts.T.tolist(), strict=True))


def scores(counts: Mapping[str, Sequence[float]]) -> dict[str, ClassScore]:
    """Each class's scores; a ratio with nothing below the line is 0.

    Args:
        counts: For each class how often it was rightly said, was said, and was there, over all ranks.
    """
    right, said, there = np.array(list(counts.values()), dtype=np.float64).reshape(-1, 3).T

    def ratio(part: NDArray[np.float64], whole: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)

    precision, recall, f1 = ratio(right, said), ratio(right, there), ratio(2 * right, said + there)
    return {
        name: ClassScore(
            precision=float(precision[i]), recall=float(recall[i]), f1=float(f1[i]), support=int(there[i])
        )
        for i, name in enumerate(counts)
    }


def lines(report: Mapping[str, ClassScore]) -> list[str]:
    """The report as text: a head, one line per class, and the means over classes (macro) and samples
    (weighted); nothing where there are no classes.
    """
    if not report:
        return []
    rows = list(report.values())
    support = np.array([row.support for row in rows], dtype=np.float64)
    table = np.array([[row.precision, row.recall, row.f1] for row in rows])
    total = max(support.sum(), 1)
    summary = {"macro mean": table.mean(axis=0), "weighted mean": support @ table / total}
    width = max(map(len, [*report, *summary]))
    head = f"{'class':{width}}  precision  recall     f1  support"
    body = [
        f"{name:{width}}  {row.precision:9.3f}  {row.recall:6.3f}  {row.f1:5.3f}  {row.support:7d}"
        for name, row in report.items()
    ]
    ends = [
        f"{name:{width}}  {mean[0]:9.3f}  {mean[1]:6.3f}  {mean[2]:5.3f}  {int(support.sum()):7d}"
        for name, mean in summary.items()
    ]
    return [head, *body, *ends]
