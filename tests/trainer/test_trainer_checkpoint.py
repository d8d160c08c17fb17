"""Checkpoints: whole or not there, verified on load, and never a way to run somebody else's code."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from cra_trainer.checkpoint import Checkpoints, StateError, parse, snapshot


def save(directory: Path, *steps: int, keep: int = 3) -> Checkpoints:
    checkpoints = Checkpoints(directory, keep=keep)
    for step in steps:
        checkpoints.save({"step": step, "weights": torch.full((1000,), float(step))}, step)
        checkpoints.wait()
    return checkpoints


def loaded_step(directory: Path) -> int | None:
    payload = Checkpoints(directory, keep=3).load().payload
    return None if payload is None else int(parse(payload)["step"])


def test_the_newest_is_loaded_and_only_so_many_are_kept(tmp_path: Path) -> None:
    checkpoints = save(tmp_path, 1, 2, 3, 12, keep=2)
    assert checkpoints.newest is not None
    assert checkpoints.newest.step == 12
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "step-000000000003.000",
        "step-000000000012.000",
    ]
    state = parse(Checkpoints(tmp_path, keep=2).load().payload or b"")
    assert state["step"] == 12
    assert torch.equal(state["weights"], torch.full((1000,), 12.0))


def test_an_empty_or_missing_directory_holds_nothing(tmp_path: Path) -> None:
    assert Checkpoints(tmp_path, keep=1).load().saved is None
    assert Checkpoints(tmp_path / "missing", keep=1).load().saved is None


def truncate(path: Path) -> None:
    with (path / "state.pt").open("r+b") as file:
        file.truncate(100)


def flip(path: Path) -> None:
    content = bytearray((path / "state.pt").read_bytes())
    content[len(content) // 2] ^= 1
    (path / "state.pt").write_bytes(content)


def no_manifest(path: Path) -> None:
    (path / "manifest.json").unlink()


def half_a_manifest(path: Path) -> None:
    (path / "manifest.json").write_text('{"step":')


@pytest.mark.parametrize("damage", [truncate, flip, no_manifest, half_a_manifest])
def test_a_damaged_one_is_passed_over_and_named(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    save(tmp_path, 1, 2)
    damage(tmp_path / "step-000000000002.000")
    checkpoints = Checkpoints(tmp_path, keep=3)
    loaded = checkpoints.load()
    assert loaded.saved is not None
    assert loaded.saved.step == 1
    assert len(loaded.rejected) == 1
    assert loaded.rejected[0].startswith("step-000000000002.000: ")
    checkpoints.save({"step": 2}, 2)
    checkpoints.wait()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "step-000000000001.000",
        "step-000000000002.000",
    ]


def test_when_all_are_damaged_training_starts_anew(tmp_path: Path) -> None:
    save(tmp_path, 1, 2)
    for path in tmp_path.iterdir():
        truncate(path)
    loaded = Checkpoints(tmp_path, keep=3).load()
    assert loaded.payload is None
    assert len(loaded.rejected) == 2


def test_a_write_that_breaks_off_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints = save(tmp_path, 1)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        checkpoints.save({"step": 2}, 2)
        checkpoints.wait()
    assert checkpoints.failures == 1
    assert checkpoints.failure is not None
    assert "No space left" in checkpoints.failure
    assert [path.name for path in tmp_path.iterdir()] == ["step-000000000001.000"]
    assert loaded_step(tmp_path) == 1
    checkpoints.save({"step": 3}, 3)
    checkpoints.wait()
    assert checkpoints.failure is None
    assert loaded_step(tmp_path) == 3


def test_what_a_crash_left_half_written_is_not_loaded(tmp_path: Path) -> None:
    save(tmp_path, 1)
    partial = tmp_path / ".partial-000000000002"
    partial.mkdir()
    (partial / "state.pt").write_bytes(b"half")
    assert loaded_step(tmp_path) == 1
    save(tmp_path, 3)
    assert not partial.exists()


def test_the_same_step_saved_again_counts_as_newer(tmp_path: Path) -> None:
    checkpoints = save(tmp_path, 5)
    checkpoints.save({"step": 5, "again": True}, 5)
    checkpoints.wait()
    assert parse(Checkpoints(tmp_path, keep=3).load().payload or b"")["again"] is True


class Bomb:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, ("touch exploded",)


def test_a_file_with_code_in_it_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save(tmp_path, 1, 2)
    newest = tmp_path / "step-000000000002.000"
    torch.save({"step": Bomb()}, newest / "state.pt")
    content = (newest / "state.pt").read_bytes()
    manifest = json.loads((newest / "manifest.json").read_text())
    manifest |= {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (newest / "manifest.json").write_text(json.dumps(manifest))
    assert loaded_step(tmp_path) == 1
    assert not (tmp_path / "exploded").exists()


def test_a_snapshot_does_not_follow_training() -> None:
    weights = torch.ones(3)
    state = snapshot({"weights": weights, "steps": [1, (2, None)], "name": "x"})
    weights.zero_()
    assert state["weights"].tolist() == [1, 1, 1]
    assert state["steps"] == [1, (2, None)]


def test_a_state_that_could_not_be_loaded_is_refused_when_it_is_saved() -> None:
    with pytest.raises(StateError, match=r"scheduler\['rules'\]\[1\]: .* got function"):
        snapshot({"rules": [1, snapshot]}, "scheduler")


def test_schedulers_survive_the_way_to_disk_and_back(tmp_path: Path) -> None:
    def schedulers() -> list[torch.optim.lr_scheduler.LRScheduler]:
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=1.0)
        return [
            torch.optim.lr_scheduler.MultiStepLR(optimizer, [2, 4]),
            torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10),
            torch.optim.lr_scheduler.OneCycleLR(optimizer, 1.0, total_steps=10),
        ]

    checkpoints = Checkpoints(tmp_path, keep=1)
    before, after = schedulers(), schedulers()
    for scheduler in before:
        scheduler.step()
    checkpoints.save({"all": [snapshot(scheduler.state_dict()) for scheduler in before]}, 1)
    checkpoints.wait()
    for scheduler, state in zip(after, parse(checkpoints.load().payload or b"")["all"], strict=True):
        scheduler.load_state_dict(state)
        assert scheduler.last_epoch == 1
