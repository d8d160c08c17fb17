"""What a frozen front made of each sample, kept: the next time the sample comes, only the rest is computed.

A front that trains no longer gives the same for the same sample in every epoch. That is where freezing gains
most (AutoFreeze, Liu et al. 2021; Egeria, Wang et al. 2023), and it asks something of the data: a sample has
a number, and what is made of it anew in every epoch (augmentation) comes in a few versions at most, or behind
the cut.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Chain(nn.Sequential):
    """A sequence of modules that can be entered further on: ``chain(x, start)`` is ``chain[start:](x)``."""

    def forward(self, x: Tensor, start: int = 0) -> Tensor:
        for module in list(self)[start:]:
            x = module(x)
        return x


class ForwardCache:
    """What the frozen front of a chain makes of samples, by their numbers, in the memory of the device.

    Args:
        chain: The model.
        samples: How many numbers there are.
    """

    def __init__(self, chain: Chain, samples: int) -> None:
        self._chain, self._samples, self._start = chain, samples, 0
        self._rows: Tensor | None = None
        self._known = torch.zeros(samples, dtype=torch.bool)

    @torch.no_grad()
    def skip(self, x: Tensor, numbers: Tensor) -> tuple[Tensor, int]:
        """A batch behind the frozen front, and where to enter the chain.

        Args:
            x: Samples [rows, ...].
            numbers: Their numbers [rows].
        """
        start = self._frozen()
        if start != self._start:
            self._start, self._rows = start, None
            self._known = torch.zeros_like(self._known)
        if not start:
            return x, 0
        numbers = numbers.to(x.device)
        self._known = self._known.to(x.device)
        if self._rows is not None and bool(self._known[numbers].all()):
            return self._rows[numbers], start
        new = ~self._known[numbers]
        made = x[new]
        training = self._chain.training
        self._chain.eval()
        for module in list(self._chain)[:start]:
            made = module(made)
        self._chain.train(training)
        if self._rows is None:
            self._rows = made.new_empty((self._samples, *made.shape[1:]))
        self._rows[numbers[new]] = made
        self._known[numbers[new]] = True
        return self._rows[numbers], start

    def _frozen(self) -> int:
        """Modules at the front before the first one that trains; what has no parameters belongs to them."""
        for i, module in enumerate(self._chain):
            if any(parameter.requires_grad for parameter in module.parameters()):
                return i
        return len(self._chain)
