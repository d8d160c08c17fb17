"""How much room a rank tells of: what its pod's limit leaves, or all of it."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest
import torch

from cra_trainer.memory import Room

CPU = torch.device("cpu")


def test_the_room_is_what_the_limit_of_the_control_group_leaves(tmp_path: Path) -> None:
    used = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    limit = tmp_path / "memory.max"
    limit.write_text(f"{4 * used}\n")
    assert Room(CPU, (tmp_path / "none", limit))() == pytest.approx(0.75, abs=0.05)
    limit.write_text(f"{used // 2}\n")
    assert Room(CPU, (limit,))() == 0
    assert used <= Room(CPU).fullest < 2 * used


@pytest.mark.parametrize("text", ["max\n", "9223372036854771712\n"])
def test_without_a_limit_there_is_room(tmp_path: Path, text: str) -> None:
    (tmp_path / "limit").write_text(text)
    assert Room(CPU, (tmp_path / "limit",))() == 1
    assert Room(CPU, (tmp_path / "none",))() == 1
