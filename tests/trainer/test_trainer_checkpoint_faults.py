"""Checkpoints where a place refuses, is full, out of reach, or the writer dies: the last good one stays."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from cra_trainer.checkpoint import Checkpoints
from tests.trainer.places import Store, loaded_step, present, save, works


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
