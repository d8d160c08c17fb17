"""Thinning: samples whose loss is small already are trained only now and then, and count more when they are.

A sample that is kept with probability q counts 1/q while the mean still divides by all rows of the batch
(Horvitz and Thompson, 1952), so the gradient is right on average whatever the probabilities. Those are
InfoBatch's (Qin et al., ICLR 2024, arXiv 2303.04947): q below 1 for samples whose last loss was below the
mean, 1 for the rest, and 1 for all in the last part of the training.

A rank knows the losses of the samples that it trained itself, which is enough: no rank needs another one's
probabilities for the mean to be right.
"""

from __future__ import annotations

import torch
from torch import Tensor


class Thinning:
    """Chooses rows of each batch, and weighs their losses::

        for x, y, numbers in session.batches(train):
            rows, weights = thinning.choose(numbers, progress=epoch / epochs)
            losses = functional.cross_entropy(model(x[rows]), y[rows], reduction="none")
            session.backward(thinning.spread(losses, numbers, rows, weights))

    Args:
        samples: How many samples the training set has; they are numbered from 0.
        keep: Probability q of samples with a small loss, above 0 and at most 1.
        whole: The last part of the training, in which every sample is trained.

    Raises:
        ValueError: `keep` is out of its range.
    """

    def __init__(self, samples: int, *, keep: float = 0.5, whole: float = 0.125) -> None:
        if not 0 < keep <= 1:
            raise ValueError(f"keep: expected above 0 and at most 1, got {keep}")
        self._keep, self._whole = keep, whole
        # NaN is neither below nor above the mean: what nobody has seen is kept.
        self._losses = torch.full((samples,), torch.nan)

    def probabilities(self, numbers: Tensor, *, progress: float) -> Tensor:
        """How likely each sample is kept, [rows], when `progress` (0 to 1) of the training is done."""
        if progress >= 1 - self._whole:
            return torch.ones(len(numbers), device=numbers.device)
        self._losses = self._losses.to(numbers.device)
        small = self._losses[numbers] < self._losses.nanmean()
        return torch.where(small, self._keep, 1.0)

    def choose(self, numbers: Tensor, *, progress: float) -> tuple[Tensor, Tensor]:
        """The rows to train and what each of them counts, both [kept]; at least one, which may count 0.

        Args:
            numbers: The samples' numbers [rows].
            progress: Part of the training that is done.
        """
        q = self.probabilities(numbers, progress=progress)
        rows = (torch.rand_like(q) < q).nonzero().flatten()
        if not len(rows):
            # The reduction of gradients needs every rank, so there is a row; it was not chosen.
            return rows.new_zeros(1), q.new_zeros(1)
        return rows, 1 / q[rows]

    def spread(self, losses: Tensor, numbers: Tensor, rows: Tensor, weights: Tensor) -> Tensor:
        """One loss for each row of the batch, 0 where it was left out: what `Session.backward` takes.

        Args:
            losses: Of the rows that were trained [kept].
            numbers: The samples' numbers [rows].
            rows: As `choose` gave them.
            weights: As `choose` gave them.
        """
        self._losses = self._losses.to(numbers.device)
        self._losses[numbers[rows]] = losses.detach().to(self._losses.dtype)
        return losses.new_zeros(len(numbers)).index_add(0, rows, losses * weights)
