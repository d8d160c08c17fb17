"""Records, locks and what is swept away."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from e2e.local import state
from e2e.local.errors import ClusterExistsError
from e2e.local.gputypes import NodeSpec
from e2e.local.layout import Layout, clusters_home, node_ip
from e2e.local.spec import ClusterSpec


def record(pid: int, started: int) -> state.Record:
    return state.Record(
        keeper=pid,
        started=started,
        prometheus_url="http://p",
        tools={"helm": "/bin/helm"},
    )


@pytest.fixture
def layout(cache_home: Path) -> Layout:
    """An empty state directory."""
    made = Layout(clusters_home() / "one")
    made.root.mkdir(parents=True)
    return made


def test_a_record_reads_as_it_was_written(layout: Layout) -> None:
    assert state.Record.read(layout.record) is None
    record(17, 3).write(layout.record)
    assert state.Record.read(layout.record) == record(17, 3)


def test_a_process_is_told_from_a_later_one_of_its_number() -> None:
    started = state.start_time(os.getpid())
    assert started is not None
    assert state.is_alive(record(os.getpid(), started))
    assert not state.is_alive(record(os.getpid(), started - 1))


def test_an_ended_process_has_no_start_time() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    assert state.wait_for_end(process.pid, 10)
    assert state.start_time(process.pid) is None  # a zombie until it is waited for
    process.wait()
    assert state.start_time(process.pid) is None


def test_end_kills_what_ignores_the_request() -> None:
    code = "import signal as s, sys; s.signal(s.SIGTERM, s.SIG_IGN); print(flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        started = state.start_time(process.pid)
        assert started is not None
        state.end(record(process.pid, started), grace=0.1)
        assert process.wait() == -9


def test_a_name_is_claimed_once_and_free_again_after_the_last_holder(layout: Layout) -> None:
    lock = state.take_lock(layout)
    record(os.getpid(), state.start_time(os.getpid()) or 0).write(layout.record)
    with pytest.raises(ClusterExistsError, match=r"cluster one runs already.*down --name one"):
        state.take_lock(layout)
    inherited = os.dup(lock)
    os.close(lock)
    with pytest.raises(ClusterExistsError):
        state.take_lock(layout)
    os.close(inherited)
    os.close(state.take_lock(layout))


def test_the_dead_are_swept_and_their_logs_kept_for_a_day(layout: Layout) -> None:
    record(os.getpid(), 1).write(layout.record)
    pod_logs = layout.node / "pods" / "uid-1" / "logs" / "trainer"
    for folder in (layout.logs, layout.data, layout.pki, pod_logs):
        folder.mkdir(parents=True)
        (folder / "file").write_text("x")
    assert list(state.clusters()) == []
    state.sweep_dead()
    assert {path.name for path in layout.root.iterdir()} <= {"lock", "logs"}
    assert (layout.logs / "file").exists()
    assert (layout.logs / "pod-uid-1" / "trainer" / "file").exists()
    os.utime(layout.root, (0, 0))
    state.sweep_dead()
    assert not layout.root.exists()


def test_the_living_are_not_swept(layout: Layout) -> None:
    lock = state.take_lock(layout)
    record(os.getpid(), state.start_time(os.getpid()) or 0).write(layout.record)
    layout.data.mkdir()
    os.utime(layout.root, (0, 0))
    state.sweep_dead()
    assert layout.data.exists()
    assert [name for name, _ in state.clusters()] == ["one"]
    os.close(lock)


def test_a_specification_loads_as_it_was_dumped() -> None:
    spec = ClusterSpec(name="a", root=Path("/s"), tools={"etcd": Path("/bin/etcd")}, nodes=("n0", "n1"))
    assert ClusterSpec.load(spec.dump()) == spec


def test_gpus_and_their_type_belong_together() -> None:
    with pytest.raises(ValueError, match="node n: gpus and gpu_type belong together"):
        NodeSpec(name="n", gpus=2)
    with pytest.raises(ValueError, match="belong together"):
        NodeSpec(name="n", gpu_type="T4")


def test_node_addresses_are_distinct_and_bounded() -> None:
    assert len({node_ip(index) for index in range(240)}) == 240
    with pytest.raises(ValueError, match="at most 240 nodes"):
        node_ip(240)
