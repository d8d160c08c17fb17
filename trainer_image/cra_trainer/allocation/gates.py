"""Attention gates: A(x) = sigmoid(x W + b), by which a model weighs its own
positions and features.

A gate multiplies what passes through it by numbers in (0, 1) that it computes from the same input. The
variants differ in what a position's gate may see.

- ``global``: the mean over all positions (global average pooling): one gate per feature, as in squeeze and
  excitation (Hu, Shen, Sun, CVPR 2018), with one layer.
- ``local``: the position itself: one gate per position and feature.
- ``multi-head``: the position itself; features are divided among heads, each with one gate per position.
- ``adaptive``: a mixture of the logits of ``global`` and ``local`` that the input itself chooses.
- ``autoregressive``: the mean over the positions so far, so that none sees a later one.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

Kind = Literal["global", "local", "multi-head", "adaptive", "autoregressive"]
KINDS: tuple[Kind, ...] = ("global", "local", "multi-head", "adaptive", "autoregressive")


class AttentionGate(nn.Module):
    """x ⊙ A(x), in the shape of x: a sequence [rows, positions, features] or images [rows, features, h, w].

    Args:
        features: Features of each position, or channels of each image.
        kind: What a position's gate may see, one of `KINDS`.
        heads: Heads of ``multi-head``; they divide the features evenly.

    Raises:
        ValueError: The kind is not known, or the heads do not divide the features.
    """

    def __init__(self, features: int, kind: Kind = "global", *, heads: int = 4) -> None:
        super().__init__()
        if kind not in KINDS:
            raise ValueError(f"kind: expected one of {', '.join(KINDS)}, got {kind!r}")
        if kind == "multi-head" and features % heads:
            raise ValueError(f"heads: expected a divisor of {features} features, got {heads}")
        self.kind = kind
        self._repeats = features // heads if kind == "multi-head" else 1
        self.score = nn.Linear(features, heads if kind == "multi-head" else features)
        self.score_of_all = nn.Linear(features, features) if kind == "adaptive" else None
        self.mixture = nn.Linear(features, 1) if kind == "adaptive" else None

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weights(x)

    def weights(self, x: Tensor) -> Tensor:
        """A(x), in the shape of x or one that broadcasts to it: where attention goes."""
        if x.ndim == 4:
            sequence = x.flatten(2).transpose(1, 2)
            gates = torch.sigmoid(self._logits(sequence)).transpose(1, 2)
            return gates[..., None] if self.kind == "global" else gates.reshape(x.shape)
        return torch.sigmoid(self._logits(x))

    def _logits(self, x: Tensor) -> Tensor:
        """The gates before the sigmoid, [rows, positions or 1, features]."""
        if self.kind == "global":
            x = x.mean(dim=1, keepdim=True)
        elif self.kind == "autoregressive":
            seen = torch.arange(1, x.shape[1] + 1, device=x.device, dtype=x.dtype)
            x = x.cumsum(dim=1) / seen[:, None]
        logits: Tensor = self.score(x)
        if self.score_of_all is not None and self.mixture is not None:
            mean = x.mean(dim=1, keepdim=True)
            part = torch.sigmoid(self.mixture(mean))
            logits = part * self.score_of_all(mean) + (1 - part) * logits
        return logits.repeat_interleave(self._repeats, dim=-1)
