"""The launcher and the endpoint, as a pod has them: real processes, real ports."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from cra_trainer import telemetry
from cra_trainer.run import merge
from tests.trainer.processes import free_port


def get(port: int, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}", timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def samples(text: str) -> dict[tuple[str, str], float]:
    return {
        (sample.name, sample.labels["rank"]): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def readings(rank: int = 0) -> telemetry.Readings:
    return telemetry.Readings(rank=rank, world_size=2, generation=3)


def test_the_endpoint_answers_before_anything_is_ready() -> None:
    one, port = readings(), free_port()
    server = telemetry.serve(
        port,
        metrics=lambda: telemetry.exposition(one),
        ready=lambda: one.ready,
        allocation=lambda: b'{"ranks": []}',
        address="127.0.0.1",
    )
    try:
        assert get(port, "readyz") == (503, "preparing\n")
        assert get(port, "healthz")[0] == 200
        assert get(port, "allocation") == (200, '{"ranks": []}')
        assert get(port, "")[0] == 404
        status, text = get(port, "metrics")
        assert status == 200
        # What has no value yet is absent; a zero would be taken for a measurement.
        assert samples(text) == {
            ("cra_trainer_world_size", "0"): 2,
            ("cra_trainer_generation", "0"): 3,
            ("cra_trainer_samples_total", "0"): 0,
            ("cra_trainer_resizes_total", "0"): 0,
        }
        one.ready, one.loss, one.samples_total = True, 0.5, 12.0
        assert get(port, "readyz") == (200, "ready\n")
        later = samples(get(port, "metrics")[1])
        assert later["cra_trainer_loss", "0"] == 0.5
        assert later["cra_trainer_samples_total", "0"] == 12
    finally:
        server.shutdown()
        server.server_close()


def test_a_probe_that_gave_up_waiting_is_not_worth_a_stack_trace(capfd: pytest.CaptureFixture[str]) -> None:
    asked, gone, port = threading.Event(), threading.Event(), free_port()

    def slow() -> bytes:
        asked.set()
        gone.wait(10)
        return bytes(10_000_000)  # more than fits between the two

    server = telemetry.serve(port, metrics=slow, ready=lambda: True, address="127.0.0.1")
    server.daemon_threads = False  # closing waits for the answer
    with socket.create_connection(("127.0.0.1", port)) as probe:
        probe.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        assert asked.wait(10)
    gone.set()
    server.shutdown()
    server.server_close()
    assert capfd.readouterr().err == ""


def test_the_expositions_of_a_pods_ranks_make_one() -> None:
    parts = [readings(rank) for rank in (2, 3)]
    parts[1].share_ratio = 0.25
    text = merge([telemetry.exposition(part) for part in parts]).decode()
    assert samples(text)["cra_trainer_generation", "2"] == 3
    assert samples(text)["cra_trainer_generation", "3"] == 3
    assert samples(text)["cra_trainer_share_ratio", "3"] == 0.25
    assert text.count("# TYPE cra_trainer_generation gauge") == 1
    assert merge([]) == b""


class Pod:
    """A pod's one process: the launcher, with what the operator would give it."""

    def __init__(self, directory: Path, script: str, *, local_ranks: int, metrics: bool = False) -> None:
        (directory / "train.py").write_text(textwrap.dedent(script))
        self.port = free_port()
        self._log = directory / "termination-log"
        environ = os.environ | {
            "RANK": "0",
            "WORLD_SIZE": str(local_ranks),
            "LOCAL_WORLD_SIZE": str(local_ranks),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(free_port()),
            "CRA_TERMINATION_LOG": str(self._log),
            "CRA_METRICS_PORT": str(self.port) if metrics else "",
            "CRA_CONFIG": json.dumps({"training": {"batchSize": 4, "epochs": 2}}),
        }
        command = [sys.executable, "-m", "cra_trainer.run", str(directory / "train.py"), "an argument"]
        self._errors = directory / "stderr"
        with self._errors.open("w") as errors:
            self.process = subprocess.Popen(
                command, env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True,
                start_new_session=True,
            )  # fmt: skip

    def said(self) -> str:
        """The next line that the script prints."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def end(self) -> int:
        return self.process.wait(timeout=60)

    @property
    def errors(self) -> str:
        """What it and its ranks wrote to stderr."""
        return self._errors.read_text()

    @property
    def message(self) -> dict[str, object]:
        read: dict[str, object] = json.loads(self._log.read_text())
        return read


@pytest.fixture
def pods() -> Iterator[list[Pod]]:
    started: list[Pod] = []
    yield started
    for pod in started:
        if pod.process.poll() is None:
            os.killpg(pod.process.pid, signal.SIGKILL)  # its ranks too
            pod.process.wait()
        for stream in (pod.process.stdin, pod.process.stdout):
            if stream is not None:
                stream.close()


def test_a_script_runs_with_its_arguments_and_needs_no_session(tmp_path: Path, pods: list[Pod]) -> None:
    pods.append(pod := Pod(tmp_path, "import sys; print(sys.argv[1:], __name__)", local_ranks=1))
    assert pod.said() == "['an argument'] __main__"
    assert pod.end() == 0
    assert pod.message == {"outcome": "succeeded"}


def test_a_script_that_raises_says_what_and_where(tmp_path: Path, pods: list[Pod]) -> None:
    pods.append(pod := Pod(tmp_path, "def load():\n    return {}['images']\nload()", local_ranks=1))
    assert pod.end() == 1
    assert pod.message == {
        "outcome": "failed",
        "error": {
            "type": "KeyError",
            "message": "'images'",
            "where": f"{tmp_path}/train.py:2 in load",
            "rank": 0,
        },
    }


def test_a_script_that_exits_with_a_code_keeps_it(tmp_path: Path, pods: list[Pod]) -> None:
    pods.append(pod := Pod(tmp_path, "import sys; sys.exit(3)", local_ranks=1))
    assert pod.end() == 3
    assert pod.message["outcome"] == "failed"


def test_sigterm_before_the_training_ends_the_process_at_once(tmp_path: Path, pods: list[Pod]) -> None:
    script = "import threading; print('waiting', flush=True); threading.Event().wait()"
    pods.append(pod := Pod(tmp_path, script, local_ranks=2))
    assert [pod.said(), pod.said()] == ["waiting", "waiting"]
    pod.process.send_signal(signal.SIGTERM)
    assert pod.end() == 143
    assert pod.message == {"outcome": "left"}


def test_one_failing_local_rank_ends_the_pod_with_its_message(tmp_path: Path, pods: list[Pod]) -> None:
    script = """
        import os, threading
        if os.environ["RANK"] == "1":
            raise OSError("no such GPU")
        threading.Event().wait()
    """
    pods.append(pod := Pod(tmp_path, script, local_ranks=2))
    assert pod.end() == 1
    error = pod.message["error"]
    assert isinstance(error, dict)
    assert (error["type"], error["message"], error["rank"]) == ("OSError", "no such GPU", 1)


def test_local_ranks_answer_behind_one_port(tmp_path: Path, pods: list[Pod]) -> None:
    script = """
        import os, sys
        from cra_trainer import process

        this = process.start()
        this.readings.share_ratio = 0.5
        this.readings.ready = os.environ["RANK"] == "0"
        print("there", flush=True)
        sys.stdin.readline()
    """
    pods.append(pod := Pod(tmp_path, script, local_ranks=2, metrics=True))
    assert [pod.said(), pod.said()] == ["there", "there"]
    assert get(pod.port, "readyz") == (503, "preparing\n")
    read = samples(get(pod.port, "metrics")[1])
    assert read["cra_trainer_world_size", "0"] == read["cra_trainer_world_size", "1"] == 2
    assert read["cra_trainer_share_ratio", "0"] == read["cra_trainer_share_ratio", "1"] == 0.5
    assert pod.process.stdin is not None
    pod.process.stdin.close()
    assert pod.end() == 0
    assert pod.message == {"outcome": "succeeded"}


def test_ranks_of_a_pod_draw_different_random_numbers_and_leave_without_a_word(
    tmp_path: Path, pods: list[Pod]
) -> None:
    script = "import random, numpy; print(random.random(), numpy.random.random(), flush=True)"
    pods.append(pod := Pod(tmp_path, script, local_ranks=2))
    one, other = (pod.said().split() for _ in range(2))
    assert pod.end() == 0
    assert not set(one) & set(other)
    assert pod.errors == ""


@pytest.mark.parametrize("local_ranks", [1, 2])
def test_what_a_script_left_to_do_at_its_end_is_done(
    tmp_path: Path, pods: list[Pod], local_ranks: int
) -> None:
    script = """
        import atexit, threading, time
        atexit.register(print, "closed")
        threading.Thread(target=lambda: (time.sleep(0.2), print("uploaded"))).start()
    """
    pods.append(pod := Pod(tmp_path, script, local_ranks=local_ranks))
    assert sorted(pod.said() for _ in range(2 * local_ranks)) == sorted(["uploaded", "closed"] * local_ranks)
    assert pod.end() == 0
    assert pod.errors == ""


def test_sigterm_while_ranks_are_being_started_reaches_them(tmp_path: Path, pods: list[Pod]) -> None:
    script = "import threading; threading.Event().wait()"
    pods.append(pod := Pod(tmp_path, script, local_ranks=2))
    handled = 1 << (signal.SIGTERM - 1)
    while not caught(pod.process.pid) & handled:
        assert pod.process.poll() is None
    pod.process.send_signal(signal.SIGTERM)
    assert pod.end() == 143


def test_sigterm_reaches_the_ranks_whichever_thread_of_the_launcher_takes_it(
    tmp_path: Path, pods: list[Pod]
) -> None:
    script = "import threading; print('waiting', flush=True); threading.Event().wait()"
    pods.append(pod := Pod(tmp_path, script, local_ranks=2, metrics=True))
    assert [pod.said(), pod.said()] == ["waiting", "waiting"]
    pid = pod.process.pid
    get(pod.port, "healthz")
    while (Path(f"/proc/{pid}/stat").read_text().split()[2]) != "S":
        assert pod.process.poll() is None
    # The kernel may choose any thread that does not block a signal; here it is the newest, the endpoint's.
    others = {int(task.name) for task in Path(f"/proc/{pid}/task").iterdir()} - {pid}
    ctypes.CDLL(None).tgkill(pid, max(others), signal.SIGTERM)
    assert pod.end() == 143


def caught(pid: int) -> int:
    """The signals for which a process has a handler."""
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1], 16) for line in status.splitlines() if line.startswith("SigCgt"))
