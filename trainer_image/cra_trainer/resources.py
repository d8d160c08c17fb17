"""What each block of a model costs, measured: time, memory held for the backward pass, operations.

Opt-in, for a person who wants to know where a step goes::

    for block in cra_trainer.measure_blocks(model, lambda: loss_function(model(x), y)):
        print(block)

Each rank's own time, memory and share of the allocator's work are among its metrics, and what its GPU tells
of itself (`cra_trainer.gpu`).
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode


@dataclass(frozen=True, kw_only=True)
class BlockCost:
    """One block's part of a step.

    Attributes:
        name: Its name in the model.
        parameters: Trainable parameters.
        forward_seconds: Median of the forward pass.
        backward_seconds: Median of the backward pass, from the block's output to its last parameter.
        saved_bytes: What its forward pass keeps for the backward pass, its parameters left out: at the
            fullest moment of a step all blocks' together are held.
        flops: Floating-point operations of matrix products and convolutions, forward and backward.
    """

    name: str
    parameters: int
    forward_seconds: float
    backward_seconds: float
    saved_bytes: int
    flops: int

    def __str__(self) -> str:
        return (
            f"{self.name}: {1000 * self.forward_seconds:.2f} ms forward, "
            f"{1000 * self.backward_seconds:.2f} ms backward, {self.saved_bytes / 1e6:.2f} MB held, "
            f"{self.flops / 1e6:.1f} MFLOP, {self.parameters} parameters"
        )


def measure_blocks(model: nn.Module, loss: Callable[[], Tensor], *, repeats: int = 5) -> list[BlockCost]:
    """Measure the model's direct parts, in the order in which they are defined.

    Gradients are computed and thrown away; those that were there before are gone.

    Args:
        model: The user's model, on its device.
        loss: Runs the model and gives the loss, []; called `repeats` + 2 times.
        repeats: Steps that are timed.

    Raises:
        ValueError: The model has no parts.
    """
    blocks = [
        (name, block) for name, block in model.named_children() if any(True for _ in block.parameters())
    ]
    if not blocks:
        raise ValueError("model: it has no parts with parameters to tell apart")
    device = next(model.parameters()).device
    loss().backward()  # type: ignore[no-untyped-call]
    with FlopCounterMode(display=False) as counter:
        loss().backward()  # type: ignore[no-untyped-call]
    flops = {str(name): sum(of.values()) for name, of in counter.get_flop_counts().items()}
    # Blocks are named in the counter after the module that was called first.
    prefix = next((name.rpartition(".")[0] for name in flops if name.endswith(f".{blocks[0][0]}")), "")
    watches = [_Watch(name, block, device) for name, block in blocks]
    try:
        for _ in range(repeats):
            loss().backward()  # type: ignore[no-untyped-call]
            for watch in watches:
                watch.end_step()
    finally:
        for watch in watches:
            watch.remove()
        model.zero_grad(set_to_none=True)
    return [
        BlockCost(
            name=watch.name,
            parameters=sum(p.numel() for p in watch.block.parameters() if p.requires_grad),
            forward_seconds=statistics.median(watch.forwards),
            backward_seconds=statistics.median(watch.backwards),
            saved_bytes=watch.saved_bytes,
            flops=flops.get(f"{prefix}.{watch.name}" if prefix else watch.name, 0),
        )
        for watch in watches
    ]


class _Watch:
    """Times one block and counts what it saves, through hooks."""

    def __init__(self, name: str, block: nn.Module, device: torch.device) -> None:
        self.name, self.block, self._device = name, block, device
        self.forwards: list[float] = []
        self.backwards: list[float] = []
        self.saved_bytes = 0
        self._own = {p.untyped_storage().data_ptr() for p in block.parameters()}
        self._forward = self._backward = self._began = 0.0
        self._saved: dict[int, int] = {}
        self._packing = saved_tensors_hooks(self._pack, lambda saved: saved)
        self._hooks = [
            block.register_forward_pre_hook(self._before),
            block.register_forward_hook(self._after),
            block.register_full_backward_pre_hook(self._before_backward),
        ]
        # NB: the block's input may need no gradient, so its end is when its own last parameter has one.
        for p in block.parameters():
            if p.requires_grad:
                hook = p.register_post_accumulate_grad_hook(self._after_backward)  # type: ignore[no-untyped-call]
                self._hooks.append(hook)

    def remove(self) -> None:
        for hook in self._hooks:
            hook.remove()

    def end_step(self) -> None:
        """Keep the step's times; a block that is called several times has their sum."""
        self.forwards.append(self._forward)
        self.backwards.append(self._backward)
        self.saved_bytes = max(self.saved_bytes, sum(self._saved.values()))
        self._forward = self._backward = 0.0
        self._saved.clear()

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()

    def _pack(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._own:
            self._saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    def _before(self, *_: Any) -> None:
        self._began = self._now()
        self._packing.__enter__()

    def _after(self, *_: Any) -> None:
        self._packing.__exit__(None, None, None)
        self._forward += self._now() - self._began

    def _before_backward(self, *_: Any) -> None:
        self._began = self._now()

    def _after_backward(self, *_: Any) -> None:
        now = self._now()
        self._backward += now - self._began
        self._began = now
