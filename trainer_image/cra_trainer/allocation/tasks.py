"""Task weights: how much each of several tasks counts in a step, following the progress of each.

The weights are FAMO's (Liu et al., NeurIPS 2023, arXiv 2306.03792), which lets the loss of every task fall at
the same relative rate without computing a gradient per task. They have the form of every allocation here: of
a budget of as many units as there are tasks, task i gets n·p_i with

    p = softmax(a + log c),  c_i = 1 / loss_i,

so with attention a = 0 each task counts by its relative, not its absolute, loss. Attention moves to tasks
that fall behind: with z = softmax(a) and d_i = log loss_i(before) - log loss_i(now),

    a <- (1 - rate·decay)·a - rate·J d,  J = diag(z) - z zᵀ.

Every rank must use the same weights and so needs the losses over the whole batch. They ride on the reduction
of the gradients: `TaskWeights.probe` is a parameter whose value stays 0 and whose gradient is the vector of
losses.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

_SMALL = 1e-8


class TaskWeights(nn.Module):
    """The weights of a model's tasks. Keep it in the model, not in the optimizer, and prepare it by name.

    For each batch call it for the loss, and `step` after `Session.step`::

        model.tasks = TaskWeights(["digit", "turn"], "adaptive")
        model, optimizer = session.prepare(model, optimizer, tasks=model.tasks)
        ...
        session.backward(tasks(losses))     # losses [tasks] or [tasks, rows]
        session.step()
        tasks.step()

    Args:
        names: The tasks' names.
        strategy: ``uniform`` (all weigh 1) or ``adaptive``: ``spec.allocator.tasks.strategy``.
        rate: How fast attention follows.
        decay: How fast it is forgotten.
    """

    def __init__(
        self, names: Sequence[str], strategy: str, *, rate: float = 0.1, decay: float = 0.01
    ) -> None:
        super().__init__()
        self.names, self._rate, self._decay = tuple(names), rate, decay
        # NB: buffers would be synchronised in every forward pass; parameters without gradient are not.
        self.attention = nn.Parameter(torch.zeros(len(names)), requires_grad=False)
        self.losses = nn.Parameter(torch.zeros(len(names)), requires_grad=False)
        self.probe = nn.Parameter(torch.zeros(len(names)), requires_grad=strategy == "adaptive")

    def weights(self) -> Tensor:
        """The present weights [tasks], which sum to their number; 1 each until losses are known."""
        shares = torch.softmax(self.attention - self.losses.clamp(min=_SMALL).log(), dim=0)
        # A condition in Python would wait for the device.
        return torch.where(self.losses.any(), len(self.names) * shares, 1.0)

    def forward(self, losses: Tensor) -> Tensor:
        """The weighted sum of the tasks' losses: [tasks] → a number, [tasks, rows] → [rows]."""
        weighted: Tensor = torch.tensordot(self.weights(), losses, dims=1)
        told: Tensor = torch.tensordot(self.probe, losses.detach(), dims=1)
        return weighted + told

    @torch.no_grad()
    def step(self) -> None:
        """Follow the losses of the step that was taken, which are the same on every rank."""
        if self.probe.grad is None:
            return
        # One batch says little: followed is the mean over about the last ten.
        now = torch.where(self.losses.any(), self.losses.lerp(self.probe.grad, 0.1), self.probe.grad)
        self.probe.grad = None
        fall = self.losses.clamp(min=_SMALL).log() - now.clamp(min=_SMALL).log()
        fall *= self.losses.any()
        z = torch.softmax(self.attention, dim=0)
        self.attention.mul_(1 - self._rate * self._decay).sub_(self._rate * z * (fall - z @ fall))
        self.losses.copy_(now)
