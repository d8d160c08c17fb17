"""Row A11: what a block costs is measured: its time, the memory it holds and its operations."""

from __future__ import annotations

import time

import pytest
import torch
from torch import Tensor, nn

import cra_trainer


class Slow(nn.Module):
    """A layer that takes 20 ms more than it must, in the forward pass."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        time.sleep(0.02)
        result: Tensor = self.inner(x)
        return result


def test_a_blocks_operations_memory_and_time_are_told_apart() -> None:
    model = nn.Sequential()
    model.add_module("wide", nn.Sequential(nn.Linear(64, 256), nn.ReLU()))
    model.add_module("shape", nn.Flatten())
    model.add_module("slow", Slow(nn.Linear(256, 4)))
    x, y = torch.randn(32, 64), torch.randint(4, (32,))
    wide, slow = cra_trainer.measure_blocks(model, lambda: nn.functional.cross_entropy(model(x), y))
    assert (wide.name, slow.name) == ("wide", "slow")
    assert (wide.parameters, slow.parameters) == (64 * 256 + 256, 256 * 4 + 4)
    # 2·rows·in·out forward and as many for each gradient; the first block's input needs none.
    assert wide.flops == 2 * (2 * 32 * 64 * 256)
    assert slow.flops == 3 * (2 * 32 * 256 * 4)
    # The input and what comes out of the ReLU; the latter is also the input of the second block.
    assert wide.saved_bytes == 4 * (32 * 64 + 32 * 256)
    assert slow.saved_bytes == 4 * 32 * 256
    assert wide.forward_seconds > 0
    assert slow.forward_seconds >= 0.02
    assert wide.backward_seconds > 0
    assert slow.backward_seconds > 0
    assert all(p.grad is None for p in model.parameters())
    assert "ms forward" in str(wide)


def test_a_model_without_parts_has_nothing_to_tell_apart() -> None:
    model = nn.Linear(8, 2)
    with pytest.raises(ValueError, match="no parts"):
        cra_trainer.measure_blocks(model, lambda: model(torch.randn(4, 8)).sum())
