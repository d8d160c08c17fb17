"""How deep to cut: the blocks at a model's front that train no longer, under a budget for the backward pass.

A step costs F forward and about 2F backward: half of it for the gradients of the weights, half for those that
flow on to the block before. A block that is frozen on its own saves only the first half; frozen together with
all blocks before it, it saves both, and so does everything before it. So what is decided is one depth, the
cut: the blocks before it cost no backward pass, and the first one behind it none to its input.

The budget b in (0, 1] is the part of all backward passes of the training that may be spent. Nothing is frozen
in the first `WARM` of it, nor while the learning rate rises. After that the cut goes deeper whenever what is
left of the budget asks for it, unless attention holds it: blocks get p = softmax(a + log c), with c their
part of the cost and a = log(|g|/|w|) the rate at which their weights still change; while the next block to be
frozen gets more than its part of the cost, and the budget can still be kept, the decision waits. Where there
is a `WaitGate`, it draws whether to wait, and learns from what was gained. When the learning rate starts
anew, so do all blocks.

Egeria (Wang et al., EuroSys 2023) and AutoFreeze (Liu et al., 2021) freeze from the front for the same
reason; `docs/workloads.md` has what it gains here, beside a training of all blocks at equal cost.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from cra_trainer.allocation.shares import Floats
from cra_trainer.allocation.waiting import WaitGate

WARM = 0.1
PERIOD = 0.05
"""Part of the training between two decisions: a cut costs a new DDP, and a cache of what is before it."""
_SMALL = 1e-12


def backward_cost(forward: Floats, cut: int) -> float:
    """Backward pass with a cut, as a part of the one without.

    Args:
        forward: Cost of each block's forward pass, [blocks].
        cut: How many blocks at the front are frozen.
    """
    whole = 2 * forward.sum() - forward[0]
    behind = forward[cut:]
    return float((2 * behind.sum() - behind[:1].sum()) / whole)


def attention_of(rates: Floats, forward: Floats) -> Floats:
    """p = softmax(a + log c), [blocks], from each block's relative gradient |g|/|w| and its cost."""
    weighted = rates * forward
    total = weighted.sum()
    return np.asarray(weighted / total if total > 0 else forward / forward.sum())


def waits(surplus: float) -> bool:
    """The rule without a gate: attention holds the cut before a block that gets more than its cost."""
    return surplus > 0


def choose_cut(
    forward: Floats,
    rates: Floats,
    *,
    cut: int,
    spent: float,
    progress: float,
    budget: float,
    wait: Callable[[float], bool] = waits,
) -> int:
    """The cut from now on, never less deep than the present one.

    Args:
        forward: Cost of each block's forward pass, [blocks].
        rates: Each block's relative gradient |g|/|w|, [blocks]; a frozen block's does not matter.
        cut: The present cut.
        spent: Backward passes so far, as a part of those of the whole training without a cut.
        progress: Part of the training that is done.
        budget: Part of all backward passes that may be spent.
        wait: Whether to wait, where the budget lets this decision wait, from log(p / c) of the next block to
            be frozen: its parts of the attention and of the cost.
    """
    if progress < WARM or progress >= 1 or budget >= 1:
        return cut
    last = len(forward) - 1
    left = (budget - spent) / (1 - progress)
    needed = next((k for k in range(cut, last) if backward_cost(forward, k) <= left), last)
    if needed == cut:
        return cut
    # What would be left if this decision waited once more must still pay for the deepest cut.
    later = 1 - progress - PERIOD
    waiting = budget - spent - PERIOD * backward_cost(forward, cut)
    must = later <= 0 or waiting < later * backward_cost(forward, last)
    if must:
        return needed
    behind = forward[cut:]
    share, cost = float(attention_of(rates[cut:], behind)[0]), float(behind[0] / behind.sum())
    return cut if wait(math.log(max(share, _SMALL) / max(cost, _SMALL))) else needed


def blocks_of(model: nn.Module) -> list[nn.Module]:
    """The parts of a model that can be frozen one after another: its children with parameters, in their
    order; chains of modules (`nn.Sequential`, `nn.ModuleList`) count by their links.
    """
    blocks: list[nn.Module] = []
    for child in model.children():
        if isinstance(child, nn.Sequential | nn.ModuleList):
            blocks += blocks_of(child)
        elif next(child.parameters(), None) is not None:
            blocks.append(child)
    return blocks


class LayerCut:
    """Follows a training and freezes the front of its model, the same blocks on every rank.

    Args:
        model: The user's model.
        budget: Part of all backward passes that may be spent.
        gate: What decides where a decision may wait, if not the rule.

    Raises:
        ValueError: The model has no parts.

    Attributes:
        cut: How many blocks at the front are frozen.
    """

    def __init__(self, model: nn.Module, budget: float, gate: WaitGate | None = None) -> None:
        self._model, self._blocks, self._budget, self._gate = model, blocks_of(model), budget, gate
        if not self._blocks:
            raise ValueError("layers.computeBudget: the model has no parts with parameters to freeze")
        self._forward: Floats = np.zeros(len(self._blocks))
        self._trainable = [[p for p in block.parameters() if p.requires_grad] for block in self._blocks]
        names = {id(module): name for name, module in model.named_modules()}
        self._names = [names[id(block)] for block in self._blocks]
        self._decisions: list[dict[str, Any]] = []
        self.cut, self._spent, self._progress, self._decided = 0, 0.0, 0.0, 0.0
        self._lowest_rate = self._rate = 0.0
        self._count()

    def _count(self) -> None:
        """Count the blocks' operations in the model's first forward pass, if nobody has told them before."""
        counted = np.zeros(len(self._blocks))
        hooks = []

        def watch(i: int, block: nn.Module) -> None:
            counter = FlopCounterMode(display=False)

            def before(*_: Any) -> None:
                counter.__enter__()  # type: ignore[no-untyped-call]

            def after(*_: Any) -> None:
                counter.__exit__(None, None, None)  # type: ignore[no-untyped-call]
                counted[i] += counter.get_total_flops()

            hooks.append(block.register_forward_pre_hook(before))
            hooks.append(block.register_forward_hook(after))

        def end(*_: Any) -> None:
            for hook in hooks:
                hook.remove()
            if not self._forward.any():
                # Norms have no product and are free beside what has; a model without any counts by its size.
                sizes = [float(sum(p.numel() for p in block.parameters())) for block in self._blocks]
                self._forward = counted if counted.any() else np.array(sizes)

        for i, block in enumerate(self._blocks):
            watch(i, block)
        hooks.append(self._model.register_forward_hook(end))

    def follow(
        self,
        optimizer: torch.optim.Optimizer,
        progress: float,
        measured: tuple[float, float] | None = None,
    ) -> bool:
        """After a backward pass, before its step: account for it, and decide where that is due.

        Args:
            optimizer: The optimizer, for its learning rate.
            progress: Part of the training that is done.
            measured: Loss and seconds of the step before, the same on every rank; None in a group's first.

        Returns:
            Whether the blocks to train are others now.
        """
        if self._gate is not None:
            self._gate.observe(measured)
        if not self._forward.any():
            return False
        self._spent += (progress - self._progress) * backward_cost(self._forward, self.cut)
        self._progress = progress
        before, rate = self.cut, max(float(group["lr"]) for group in optimizer.param_groups)
        rising, self._rate = rate > self._rate, rate
        if self.cut and rate > 2 * self._lowest_rate:
            self._freeze(0)
            self._decided = progress
        self._lowest_rate = rate if not self.cut else min(rate, self._lowest_rate)
        due = progress - self._decided >= PERIOD or self._decided < WARM <= progress
        # What starts to learn, or to learn anew, is not frozen.
        if due and not rising:
            self._decide()
        return self.cut != before

    def _decide(self) -> None:
        """Choose the cut from now on, and keep what it was chosen by."""
        rates, cut, progress = self._rates(), self.cut, self._progress
        if not np.isfinite(rates).all():
            # Mixed precision overflows now and then; the next step decides.
            return
        self._decided = progress
        if self._gate is not None:
            self._gate.learn()
        chosen = choose_cut(
            self._forward,
            rates,
            cut=cut,
            spent=self._spent,
            progress=progress,
            budget=self._budget,
            wait=waits if self._gate is None else self._gate.wait,
        )
        behind = attention_of(rates[cut:], self._forward[cut:])
        self._decisions.append(
            {
                "progress": round(progress, 4),
                "cut": chosen,
                "attention": [0.0] * cut + behind.round(4).tolist(),
            }
        )
        self._freeze(chosen)

    def explain(self) -> dict[str, Any]:
        """Every decision as plain values: part of the training that was done, the cut from there on, and the
        attention that each block got, of which frozen ones get none. With a gate also what that has learned.
        """
        cost = self._forward / (self._forward.sum() or 1.0)
        told = {"blocks": self._names, "cost": cost.round(4).tolist(), "decisions": list(self._decisions)}
        return told if self._gate is None else {**told, "gate": self._gate.explain()}

    def _rates(self) -> Floats:
        """Each block's |g|/|w|. The gradients are reduced, so all ranks have the same."""
        return np.array([_norm(ps, gradient=True) / (_norm(ps) or 1.0) for ps in self._trainable])

    def _freeze(self, cut: int) -> None:
        self.cut = cut
        for i, parameters in enumerate(self._trainable):
            for parameter in parameters:
                parameter.requires_grad_(i >= cut)

    def state_dict(self) -> dict[str, Any]:
        return {
            "cut": self.cut,
            "forward": self._forward.tolist(),
            "spent": self._spent,
            "progress": self._progress,
            "decided": self._decided,
            "lowest_rate": self._lowest_rate,
            "rate": self._rate,
            "decisions": self._decisions,
            "gate": None if self._gate is None else self._gate.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._forward = np.array(state["forward"], dtype=np.float64)
        self._spent, self._progress = state["spent"], state["progress"]
        self._decided, self._lowest_rate = state["decided"], state["lowest_rate"]
        self._rate, self._decisions = state["rate"], list(state["decisions"])
        if self._gate is not None and state["gate"] is not None:
            self._gate.load_state_dict(state["gate"])
        self._freeze(state["cut"])


def _norm(parameters: Sequence[nn.Parameter], *, gradient: bool = False) -> float:
    tensors = [p.grad if gradient else p.detach() for p in parameters]
    known = [tensor for tensor in tensors if tensor is not None]
    return float(torch.linalg.vector_norm(torch.stack(torch._foreach_norm(known)))) if known else 0.0
