"""Checkpoints: whole or not there, verified on load, and never a way to run somebody else's code."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import pytest
import torch
from fsspec.spec import AbstractBufferedFile

from cra_trainer.checkpoint import Checkpoints, StateError, parse, snapshot
from cra_trainer.storage import StorageError


@pytest.fixture(params=["directory", "file://", "memory://", "store://"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A location for checkpoints that does not exist yet, of each kind."""
    if request.param == "memory://":
        return f"memory://{uuid.uuid4()}/job"
    if request.param == "store://":
        return str(request.getfixturevalue("store"))
    return f"{request.param.removesuffix('directory')}{tmp_path}/to/job"


def save(location: str | Path, *steps: int, keep: int = 3) -> Checkpoints:
    checkpoints = Checkpoints(location, keep=keep)
    for step in steps:
        checkpoints.save({"step": step, "weights": torch.full((1000,), float(step))}, step)
        checkpoints.wait()
    return checkpoints


def loaded_step(location: str | Path) -> int | None:
    payload = Checkpoints(location, keep=3).load().payload
    return None if payload is None else int(parse(payload)["step"])


def files(location: str) -> Any:
    """The file system of a location, with paths relative to it."""
    return fsspec.filesystem("dir", path=fsspec.url_to_fs(location)[1], fs=fsspec.url_to_fs(location)[0])


def present(location: str) -> list[str]:
    return sorted(path.rpartition("/")[2] for path in files(location).ls("", detail=False))


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


# Places that fail.


def works(operation: str) -> None:
    """What a store that works does when it is asked for an operation."""


class Store(fsspec.AbstractFileSystem):  # type: ignore[misc]
    """An object store: no directories, no rename, and an object is there once it is closed.

    `asked` is called before each operation and may refuse it.
    """

    protocol = "store"
    cachable = False
    objects: ClassVar[dict[str, bytes]] = {}
    asked: Callable[[str], None] = staticmethod(works)

    def ls(self, path: str, detail: bool = True, **kwargs: Any) -> Any:
        Store.asked("ls")
        directory = self._strip_protocol(path) + "/"
        rest = {name[len(directory) :] for name in self.objects if name.startswith(directory)}
        if not rest:
            raise FileNotFoundError(path)
        names = sorted({directory + name.partition("/")[0] for name in rest})
        return [self.info(name) for name in names] if detail else names

    def info(self, path: str, **kwargs: Any) -> dict[str, Any]:
        content = self.objects.get(path)
        return {"name": path, "size": len(content or b""), "type": "directory" if content is None else "file"}

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **kwargs: Any) -> bytes:
        Store.asked("read")
        if path not in self.objects:
            raise FileNotFoundError(path)
        return self.objects[path]

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **kwargs: Any) -> None:
        Store.asked("put")
        self.objects[path] = bytes(value)

    def rm(self, path: str, recursive: bool = False, maxdepth: int | None = None) -> None:
        Store.asked("rm")
        path = self._strip_protocol(path)
        gone = [name for name in self.objects if name == path or name.startswith(f"{path}/")]
        if not gone:
            raise FileNotFoundError(path)
        for name in gone:
            del self.objects[name]

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        raise AssertionError("a driver would make a bucket")

    def _open(self, path: str, mode: str = "rb", **kwargs: Any) -> Upload:
        Store.asked("open")
        return Upload(self, path, mode, block_size=2000)


class Upload(AbstractBufferedFile):  # type: ignore[misc]
    """An object on its way, in parts."""

    def _initiate_upload(self) -> None:
        self.parts: list[bytes] = []

    def _upload_chunk(self, final: bool = False) -> bool:
        Store.asked("write")
        self.parts.append(self.buffer.getvalue())
        if final:
            Store.asked("close")
            self.fs.objects[self.path] = b"".join(self.parts)
        return True


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> str:
    """Location in a `Store`."""
    fsspec.register_implementation("store", Store, clobber=True)
    monkeypatch.setattr(Store, "asked", staticmethod(works))
    return f"store://bucket/{uuid.uuid4()}"


class DriverError(Exception):
    """Drivers have errors of their own, some without a text."""


@pytest.mark.parametrize(
    "error", [PermissionError(13, "Access denied"), OSError(122, "Disk quota exceeded"), DriverError()]
)
@pytest.mark.parametrize("operation", ["ls", "open", "write", "close", "put"])
def test_a_refused_write_is_reported_and_the_one_before_stays(
    store: str, operation: str, error: Exception
) -> None:
    checkpoints = save(store, 1)

    def refuse(asked: str) -> None:
        if asked == operation:
            raise error

    Store.asked = staticmethod(refuse)
    checkpoints.save({"step": 2, "weights": torch.zeros(1000)}, 2)
    checkpoints.wait()
    assert checkpoints.failures == 1
    assert checkpoints.failure == f"checkpoint of step 2 in {store}: {str(error) or 'DriverError'}"
    assert checkpoints.newest is not None
    assert checkpoints.newest.step == 1
    Store.asked = staticmethod(works)
    assert loaded_step(store) == 1
    checkpoints.save({"step": 3}, 3)
    checkpoints.wait()
    assert checkpoints.failure is None
    assert loaded_step(store) == 3
    assert present(store) == ["step-000000000001.000", "step-000000000003.000"]


def test_one_that_cannot_be_removed_is_no_failure(store: str) -> None:
    checkpoints = save(store, 1)

    def refuse(asked: str) -> None:
        if asked == "rm":
            raise PermissionError(13, "Access denied")

    Store.asked = staticmethod(refuse)
    for step in (2, 3, 4):
        checkpoints.save({"step": step}, step)
        checkpoints.wait()
    assert checkpoints.failures == 0
    assert loaded_step(store) == 4


def test_wherever_a_crash_comes_a_whole_one_is_there(store: str) -> None:
    """All operations from the n-th on do nothing but fail, for every n; then the next process takes over."""
    for crash in range(1, 100):
        location = f"{store}/{crash}"
        checkpoints = save(location, 1, 2, keep=2)
        done: list[str] = []

        def die(operation: str, crash: int = crash, done: list[str] = done) -> None:
            done.append(operation)
            if len(done) >= crash:
                raise ConnectionError("dead")

        Store.asked = staticmethod(die)
        checkpoints.save({"step": 3, "weights": torch.zeros(1000)}, 3)
        checkpoints.wait()
        Store.asked = staticmethod(works)
        next_one = Checkpoints(location, keep=2)
        loaded = next_one.load()
        assert loaded.saved is not None
        assert loaded.saved.step == (3 if checkpoints.newest and checkpoints.newest.step == 3 else 2)
        assert not loaded.rejected
        next_one.save({"step": 4}, 4)
        next_one.wait()
        assert len(present(location)) == 2
        assert loaded_step(location) == 4
        if len(done) < crash:
            return
    raise AssertionError("a checkpoint of a hundred operations")


def test_a_place_out_of_reach_is_not_an_empty_one(store: str) -> None:
    save(store, 1, 2)

    def refuse(asked: str, operations: tuple[str, ...] = ("ls",)) -> None:
        if asked in operations:
            raise TimeoutError("no answer")

    Store.asked = staticmethod(refuse)
    with pytest.raises(OSError, match=r"checkpoints in store://bucket/.* cannot be read: no answer"):
        Checkpoints(store, keep=3).load()
    Store.asked = staticmethod(lambda asked: refuse(asked, ("read",)))
    with pytest.raises(OSError, match=r"cannot be read: step-.*2.000: no answer; step-.*1.000: no answer"):
        Checkpoints(store, keep=3).load()


def test_one_that_could_not_be_read_stays(store: str) -> None:
    save(store, 1, 2)
    reads: list[str] = []

    def fail_once(asked: str) -> None:
        if asked == "read":
            reads.append(asked)
            if len(reads) == 1:
                raise TimeoutError("no answer")

    Store.asked = staticmethod(fail_once)
    checkpoints = Checkpoints(store, keep=1)
    loaded = checkpoints.load()
    assert loaded.saved is not None
    assert loaded.saved.step == 1
    assert loaded.rejected == ("step-000000000002.000: no answer",)
    checkpoints.save({"step": 1}, 1)
    checkpoints.wait()
    assert present(store) == ["step-000000000001.001", "step-000000000002.000"]


def test_a_file_that_may_not_grow_so_far_is_reported(tmp_path: Path) -> None:
    checkpoints = save(tmp_path, 1)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        checkpoints.save({"step": 2, "weights": torch.zeros(100_000)}, 2)
        checkpoints.wait()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert checkpoints.failure is not None
    assert "File too large" in checkpoints.failure
    assert present(str(tmp_path)) == ["step-000000000001.000"]
    assert loaded_step(tmp_path) == 1


def test_a_file_in_the_way_is_reported(tmp_path: Path) -> None:
    (tmp_path / "job").write_text("not a directory")
    checkpoints = save(tmp_path / "job", 1)
    assert checkpoints.failure is not None
    assert str(tmp_path / "job") in checkpoints.failure
    assert Checkpoints(tmp_path / "job", keep=1).load().saved is None


FULL_DISK = """
import subprocess, sys, torch
from cra_trainer.checkpoint import Checkpoints, parse

place = sys.argv[1]
checkpoints = Checkpoints(place, keep=2)

def save(step, size):
    checkpoints.save({"step": step, "weights": torch.zeros(size, dtype=torch.uint8)}, step)
    checkpoints.wait()
    print(checkpoints.failures, checkpoints.failure, parse(Checkpoints(place, keep=2).load().payload)["step"])

save(1, 100_000)
save(2, 3_000_000)
save(3, 200_000)
subprocess.run(["mount", "-o", "remount,ro", place], check=True)
save(4, 100_000)
"""


@pytest.mark.processes
def test_a_full_disk_and_a_read_only_one_are_reported(tmp_path: Path) -> None:
    mounted = [
        "unshare",
        "-rm",
        "sh",
        "-c",
        'mount -t tmpfs -o size=1m none "$1" && shift && exec "$@"',
        "sh",
    ]
    if subprocess.run([*mounted, str(tmp_path), "true"], capture_output=True).returncode:
        pytest.skip("may not mount a tmpfs here")
    script = [sys.executable, "-c", FULL_DISK, str(tmp_path)]
    run = subprocess.run([*mounted, str(tmp_path), *script], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines() == [
        "0 None 1",
        f"1 checkpoint of step 2 in {tmp_path}: [Errno 28] No space left on device 1",
        "1 None 3",
        f"2 checkpoint of step 4 in {tmp_path}: [Errno 30] Read-only file system: "
        f"'{tmp_path}/step-000000000004.000' 3",
    ]


KILLED = """
import os, random, signal, sys, time, torch
from cra_trainer.checkpoint import Checkpoints, parse

torch.set_num_threads(1)
place, last = sys.argv[1], 0
for attempt in range(30):
    child = os.fork()
    if not child:
        checkpoints = Checkpoints(place, keep=2)
        for step in range(last + 1, last + 100):
            checkpoints.save({"step": step, "weights": torch.full((300_000,), step)}, step)
            checkpoints.wait()
        os._exit(0)
    time.sleep(random.uniform(0, 0.05))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    loaded = Checkpoints(place, keep=2).load()
    assert not loaded.rejected, loaded.rejected
    if loaded.payload is not None:
        state = parse(loaded.payload)
        assert last <= state["step"] and (state["weights"] == state["step"]).all()
        last = state["step"]
print(last)
"""


@pytest.mark.processes
def test_a_killed_writer_leaves_whole_ones(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert int(run.stdout) > 0


# Snapshots.


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
