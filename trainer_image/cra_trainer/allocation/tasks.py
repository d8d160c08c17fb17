"""Task weights: how much each of several tasks counts in a step, following the progress of each.

Of a budget of as many units as there are tasks, task i gets n·p_i. Two strategies let p follow the tasks.

``performance`` follows validation: p = softmax(a), where a task that is far off on the validation data gains
attention until it is no longer (`performance.adjust`). Between two validations the weights rest.

``adaptive`` follows the losses of the steps: its weights are FAMO's (Liu et al., NeurIPS 2023, arXiv
2306.03792), which lets the loss of every task fall at the same relative rate without computing a gradient per
task. They have the form of every allocation here:

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
from typing import Any

import torch
from torch import Tensor, nn

from cra_trainer.allocation.performance import GOOD, POOR, adjust, grade, performance
from cra_trainer.allocation.shares import Floats

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
        strategy: ``uniform`` (all weigh 1), ``adaptive`` or ``performance``:
            ``spec.allocator.tasks.strategy``.
        measures: The names under which `Session.report` is told how well each task is done, as a part right
            or a part wrong (names with error or loss) of 1.
        good: Performance from which on a task is left alone: ``spec.allocator.tasks.good``.
        poor: Performance below which its attention moves as far as it may: ``spec.allocator.tasks.poor``.
        rate: How fast attention follows the losses.
        decay: How fast it is forgotten.

    Raises:
        ValueError: The strategy is ``performance``, and not every task has a measure.
    """

    def __init__(
        self,
        names: Sequence[str],
        strategy: str,
        *,
        measures: Sequence[str] = (),
        good: float = GOOD,
        poor: float = POOR,
        rate: float = 0.1,
        decay: float = 0.01,
    ) -> None:
        super().__init__()
        if strategy == "performance" and len(measures) != len(names):
            raise ValueError(f"measures: expected one for each of the tasks {', '.join(names)}")
        self.names, self.measures, self._rate, self._decay = tuple(names), tuple(measures), rate, decay
        self._good, self._poor, self._by_performance = good, poor, strategy == "performance"
        self._told: list[dict[str, Any]] = []
        # NB: buffers would be synchronised in every forward pass; parameters without gradient are not.
        self.attention = nn.Parameter(torch.zeros(len(names)), requires_grad=False)
        self.losses = nn.Parameter(torch.zeros(len(names)), requires_grad=False)
        self.probe = nn.Parameter(torch.zeros(len(names)), requires_grad=strategy == "adaptive")

    def weights(self) -> Tensor:
        """The present weights [tasks], which sum to their number; 1 each until something is known."""
        # Losses that are not known are 0 for every task, which changes no share.
        shares = torch.softmax(self.attention - self.losses.clamp(min=_SMALL).log(), dim=0)
        return len(self.names) * shares

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

    @torch.no_grad()
    def judge(self, errors: Floats) -> None:
        """Follow a validation, which `Session.report` calls for: ε of each task, the same on every rank."""
        performed = performance(errors)
        if self._by_performance:
            moved = adjust(self.attention.tolist(), performed, good=self._good, poor=self._poor)
            self.attention.copy_(torch.from_numpy(moved))
        self._told = [
            {
                "task": name,
                "performance": round(float(value), 4),
                "grade": grade(value, good=self._good, poor=self._poor),
                "weight": round(weight, 4),
            }
            for name, value, weight in zip(self.names, performed, self.weights().tolist(), strict=True)
        ]

    def explain(self) -> list[dict[str, Any]]:
        """Each task's performance at the last validation, its grade, and the weight that it has had since, or
        for ``adaptive`` had then; nothing before the first one.
        """
        return self._told
