"""Snapshots: a copy of the state that training does not change, in memory that is used again."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from cra_trainer.checkpoint import Checkpoints, StateError, parse, snapshot
from tests.trainer.places import Store, save


def test_a_snapshot_does_not_follow_training() -> None:
    weights = torch.ones(3)
    state = snapshot({"weights": weights, "steps": [1, (2, None)], "name": "x"})
    weights.zero_()
    assert state["weights"].tolist() == [1, 1, 1]
    assert state["steps"] == [1, (2, None)]


def test_a_snapshot_takes_the_memory_of_one_that_is_written(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=1)
    weights, momentum = torch.zeros(1000), torch.zeros(10)
    addresses = set()
    for step in range(4):
        weights += 1
        spare = checkpoints.spare()
        assert (spare is None) == (step == 0)
        state = snapshot({"step": step, "all": [weights, (momentum, None)]}, spare=spare)
        addresses.add((state["all"][0].data_ptr(), state["all"][1][0].data_ptr()))
        checkpoints.save(state, step)
        checkpoints.wait()
    assert len(addresses) == 1
    state = parse(checkpoints.load().payload or b"")
    assert state["step"] == 3
    assert torch.equal(state["all"][0], torch.full((1000,), 4.0))


def test_no_snapshot_takes_memory_that_is_being_written(store: str) -> None:
    checkpoints = save(store, 1)
    go = threading.Event()

    def wait(asked: str) -> None:
        if asked == "open":
            assert go.wait(10)

    Store.asked = staticmethod(wait)
    checkpoints.save({"step": 2}, 2)
    assert checkpoints.busy
    assert checkpoints.spare() is None
    go.set()
    checkpoints.wait()
    assert checkpoints.spare() == {"step": 2}
    assert checkpoints.spare() is None


def test_memory_that_does_not_fit_is_left_alone() -> None:
    spare: dict[str, Any] = {
        "a": torch.zeros(3),
        "b": torch.zeros(2),
        "c": [torch.zeros(2)],
        "e": torch.zeros(2),
        "g": 1,
    }
    state: dict[str, Any] = {
        "a": torch.ones(2),
        "b": torch.ones(2, dtype=torch.float64),
        "c": [torch.ones(2), torch.ones(1)],
        "d": torch.ones(2),
        "e": torch.eye(2).to_sparse(),
        "f": {"g": torch.ones(2)},
        "g": torch.ones(2),
    }
    taken = snapshot(state, spare=spare)
    assert taken["c"][0] is spare["c"][0]
    assert taken["b"].dtype == torch.float64
    for name in ("a", "b", "d", "g"):
        assert torch.equal(taken[name], state[name])
        assert taken[name] is not spare.get(name)
    assert torch.equal(taken["e"].to_dense(), torch.eye(2))


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
