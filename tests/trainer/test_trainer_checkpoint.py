"""Checkpoints: whole or not there, verified on load, and never a way to run somebody else's code."""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch

from cra_trainer.checkpoint import Checkpoints, parse
from cra_trainer.storage import StorageError
from tests.trainer.places import files, loaded_step, present, save


@pytest.fixture(params=["directory", "file://", "memory://", "store://"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A location for checkpoints that does not exist yet, of each kind."""
    if request.param == "memory://":
        return f"memory://{uuid.uuid4()}/job"
    if request.param == "store://":
        return str(request.getfixturevalue("store"))
    return f"{request.param.removesuffix('directory')}{tmp_path}/to/job"


def test_the_newest_is_loaded_and_only_so_many_are_kept(place: str) -> None:
    checkpoints = save(place, 1, 2, 3, 12, keep=2)
    assert checkpoints.failure is None
    assert checkpoints.newest is not None
    assert checkpoints.newest.step == 12
    assert present(place) == ["step-000000000003.000", "step-000000000012.000"]
    state = parse(Checkpoints(place, keep=2).load().payload or b"")
    assert state["step"] == 12
    assert torch.equal(state["weights"], torch.full((1000,), 12.0))


def test_a_checkpoint_is_found_where_it_says(place: str) -> None:
    newest = save(place, 1).newest
    assert newest is not None
    fs, path = fsspec.url_to_fs(newest.path)
    assert sorted(fs.ls(path, detail=False)) == [f"{path}/manifest.json", f"{path}/state.pt"]
    assert newest.path.startswith(place.removeprefix("file://").replace("memory://", "memory:///"))


def test_a_missing_place_holds_nothing(place: str) -> None:
    assert Checkpoints(place, keep=1).load().saved is None


def test_an_empty_directory_holds_nothing(tmp_path: Path) -> None:
    assert Checkpoints(tmp_path, keep=1).load().saved is None


def truncate(fs: Any, path: str) -> None:
    fs.pipe(f"{path}/state.pt", fs.cat(f"{path}/state.pt")[:100])


def flip(fs: Any, path: str) -> None:
    content = bytearray(fs.cat(f"{path}/state.pt"))
    content[len(content) // 2] ^= 1
    fs.pipe(f"{path}/state.pt", bytes(content))


def no_state(fs: Any, path: str) -> None:
    fs.rm(f"{path}/state.pt")


def half_a_manifest(fs: Any, path: str) -> None:
    fs.pipe(f"{path}/manifest.json", b'{"step":')


@pytest.mark.parametrize("damage", [truncate, flip, no_state, half_a_manifest])
def test_a_damaged_one_is_passed_over_and_named(place: str, damage: Callable[[Any, str], None]) -> None:
    save(place, 1, 2)
    damage(files(place), "step-000000000002.000")
    checkpoints = Checkpoints(place, keep=3)
    loaded = checkpoints.load()
    assert loaded.saved is not None
    assert loaded.saved.step == 1
    assert len(loaded.rejected) == 1
    assert loaded.rejected[0].startswith("step-000000000002.000: ")
    checkpoints.save({"step": 2}, 2)
    checkpoints.wait()
    assert present(place) == ["step-000000000001.000", "step-000000000002.001"]


def test_damaged_ones_do_not_count_as_kept(place: str) -> None:
    save(place, 1, 2)
    truncate(files(place), "step-000000000002.000")
    checkpoints = Checkpoints(place, keep=2)
    checkpoints.load()
    checkpoints.save({"step": 3}, 3)
    checkpoints.wait()
    assert present(place) == ["step-000000000001.000", "step-000000000003.000"]


def test_when_all_are_damaged_training_starts_anew(place: str) -> None:
    save(place, 1, 2)
    for name in present(place):
        truncate(files(place), name)
    loaded = Checkpoints(place, keep=3).load()
    assert loaded.payload is None
    assert len(loaded.rejected) == 2


def test_without_a_manifest_there_is_no_checkpoint(place: str) -> None:
    save(place, 1, 2)
    files(place).rm("step-000000000002.000/manifest.json")
    loaded = Checkpoints(place, keep=3).load()
    assert loaded.saved is not None
    assert loaded.saved.step == 1
    assert not loaded.rejected
    save(place, 3)
    assert present(place) == ["step-000000000001.000", "step-000000000003.000"]


def test_the_same_step_saved_again_counts_as_newer(place: str) -> None:
    checkpoints = save(place, 5)
    checkpoints.save({"step": 5, "again": True}, 5)
    checkpoints.wait()
    assert parse(Checkpoints(place, keep=3).load().payload or b"")["again"] is True


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


def test_a_missing_driver_is_named() -> None:
    fsspec.register_implementation(
        "far", "far_away.FileSystem", errtxt="Install far-away to access Far", clobber=True
    )
    with pytest.raises(StorageError, match=r"far://bucket/job: Install far-away .* image lacks that package"):
        Checkpoints("far://bucket/job", keep=1)
    with pytest.raises(StorageError, match=r"nowhere://x: Protocol not known: nowhere"):
        Checkpoints("nowhere://x", keep=1)
