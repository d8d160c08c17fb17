"""Takes the norms of gradients that the noise scale is estimated from, in the steps that are chosen for it.

Several ranks: the norm of this rank's own gradient, tensor by tensor before each is reduced, and that of the
reduced one. One rank: its gradients of two steps in a row, of which one has to be kept until the next; of a
large model that is a sample of the elements, never more than `KEPT`.

The norms stay on the device. They are told to the other ranks with the next step's table, and so are never
waited for.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Iterable
from typing import cast

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from cra_trainer.allocation.shares import Ints
from cra_trainer.data import mix

# Elements of a gradient that are kept from one step to the next, 16 MB.
KEPT = 2**22


class Probe:
    """The measurements of one rank in one group.

    Args:
        parameters: Those of the model.
        rank: This rank.
        world_size: Number of ranks.

    Attributes:
        told: √A_i and √t of the last measurement, [2], where Σ A_i over all ranks is the A and t the square
            norm of `cra_trainer.noise`; None after a step that completed none.
        of: Parts and rows of that measurement.
        cost: Seconds of this thread that the last measurement took.
    """

    def __init__(self, parameters: Iterable[Tensor], *, rank: int, world_size: int) -> None:
        self._parameters = list(parameters)
        self._rank, self._ranks = rank, world_size
        self._stride = max(1, math.ceil(sum(p.numel() for p in self._parameters) / KEPT))
        self._count = 0
        self._rows: Ints | None = None
        self._norms: list[Tensor] = []
        self._hooks: list[RemovableHandle] = []
        self._kept: tuple[Tensor, int] | None = None
        self.told: Tensor | None = None
        self.of: tuple[int, int] | None = None
        self.cost = 0.0

    def begin(self, rows: Ints, *, measure: bool) -> None:
        """A step over these rows of each rank starts."""
        self.told = self.of = None
        self._forget()
        self._rows = rows if measure else None
        if not measure:
            self._kept = None

    def last_piece(self) -> None:
        """What comes now is the last piece of this rank's batch: its own gradients are whole after it."""
        if self._rows is not None and self._ranks > 1:
            self._hooks = [
                p.register_hook(functools.partial(self._add, p))  # type: ignore[no-untyped-call]
                for p in self._parameters
                if p.requires_grad
            ]

    def _forget(self) -> None:
        self._norms.clear()
        while self._hooks:
            self._hooks.pop().remove()

    def _add(self, parameter: Tensor, gradient: Tensor) -> None:
        """One of this rank's own gradients is about to be reduced, with what earlier pieces left of it."""
        started = time.perf_counter()
        if parameter.grad is not None:
            gradient = gradient + parameter.grad
        if not self._norms:
            self.cost = 0.0
        self._norms.append(torch.linalg.vector_norm(gradient, dtype=torch.float32))
        self.cost += time.perf_counter() - started

    def reduced(self, scale: Tensor | None = None) -> None:
        """The gradients are reduced, and nobody has touched them since, except to multiply by `scale`."""
        if self._rows is None:
            return
        started = time.perf_counter()
        gradients = [local(p.grad) for p in self._parameters if p.grad is not None]
        if self._ranks == 1:
            self.cost = 0.0
            self._compare(gradients, int(self._rows[0]))
        else:
            rows, mine = int(self._rows.sum()), int(self._rows[self._rank])
            # The loss was weighed with n·b_i/B, so this rank's gradient is n·(b_i/B)·g_i, and of
            # A_i = (b_i/B)·|g_i|² the root is that one's norm times √(B/b_i)/n.
            own = torch.linalg.vector_norm(torch.stack(self._norms))
            own *= math.sqrt(rows / max(mine, 1)) / self._ranks
            if scale is not None:
                # So a part counts by its rows, whatever terms its loss has: right in the mean.
                own *= scale
            # NB: get_total_norm would answer in the gradients' own type, and of bfloat16 too little is left
            # for the difference of two squares.
            norms = [torch.linalg.vector_norm(gradient, dtype=torch.float32) for gradient in gradients]
            self.told = torch.stack((own, torch.linalg.vector_norm(torch.stack(norms))))
            self.of = int((self._rows > 0).sum()), rows
            self._forget()
        self.cost += time.perf_counter() - started

    def _compare(self, gradients: list[Tensor], rows: int) -> None:
        """Take the gradients of this step and of the one before for those of two parts of a batch."""
        if self._kept is None:
            self._count += 1
        # Another sample each time, so that in the mean every element counts alike.
        offset = mix(self._count) % self._stride
        sample = torch.cat([g.flatten()[offset :: self._stride].float() for g in gradients])
        if self._kept is None:
            self._kept = sample, rows
            return
        (before, rows_before), self._kept = self._kept, None
        total = rows + rows_before
        squares = before.dot(before) * (rows_before / total) + sample.dot(sample) * (rows / total)
        whole = torch.linalg.vector_norm(before * (rows_before / total) + sample * (rows / total))
        self.told = torch.stack((squares.sqrt(), whole)) * math.sqrt(self._stride)
        self.of = 2, total


def local(tensor: Tensor) -> Tensor:
    """What this rank holds of a tensor."""
    part = getattr(tensor, "to_local", None)
    return tensor if part is None else cast(Tensor, part())
