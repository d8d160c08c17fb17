"""Start a training script in a pod: ``python -m cra_trainer.run [-m module | script.py] args…``.

With one local rank the script runs in this very process. With several (``LOCAL_WORLD_SIZE`` > 1) one process
per local rank is forked, ranks counting from ``RANK``, after torch was imported once for all of them: that
takes some seconds of CPU, which a pod of eight ranks would need eight times. They share the pod's one metrics
port, its termination message and its SIGTERM through this launcher; the first rank that fails ends the rest,
and its exit code and message are the pod's.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
import urllib.request
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cra_trainer import process, script, telemetry, termination
from cra_trainer.config import ConfigError, Env, read_env

USAGE = "usage: python -m cra_trainer.run [-m module | script.py] args..."
GRACE_SECONDS = 10
SHARED = ("torch._dynamo", "cra_trainer.session")
"""What every rank will import; optimizers import the first at their first step. Neither touches a GPU, which
must not be touched before a process forks."""


def main(arguments: Sequence[str]) -> int:
    """Run the script, or one process per local rank; returns the exit code."""
    try:
        env = read_env()
    except ConfigError as error:
        print(f"cra_trainer.run: {error}", file=sys.stderr)
        return 2
    if not arguments or (arguments[0] == "-m" and len(arguments) < 2):
        print(USAGE, file=sys.stderr)
        return 2
    if env.local_world_size == 1:
        return script.main(arguments)
    ranks = LocalRanks(env)
    return script.main(arguments) if ranks.fork() else ranks.wait()


class LocalRanks:
    """The processes of a pod with several GPUs.

    Args:
        env: The pod's environment; `Env.rank` is that of its first process.
    """

    def __init__(self, env: Env) -> None:
        self._env = env
        # For the ranks' own termination messages.
        self._scratch = Path(tempfile.mkdtemp(prefix="cra-"))
        self._ports = _free_ports(env.pod_ip, env.local_world_size) if env.metrics_port else []
        self._pids: list[int] = []
        self._codes: dict[int, int] = {}

    def fork(self) -> bool:
        """Start the ranks. It returns in the launcher, and in each of them: there it is true."""
        asked = threading.Event()
        signal.signal(signal.SIGTERM, lambda *_: asked.set())
        for name in SHARED:
            importlib.import_module(name)
        gc.freeze()  # or a collection in a rank would copy what all share
        # No rank hears with the launcher's ears, and none is started and then forgotten.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        for index in range(self._env.local_world_size):
            pid = os.fork()
            if pid == 0:
                self._become(index)
                return True
            self._pids.append(pid)
        process.on_sigterm(lambda: self._signal(signal.SIGTERM))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        if asked.is_set():
            self._signal(signal.SIGTERM)
        return False

    def _become(self, index: int) -> None:
        """What a rank has for itself."""
        os.environ |= {
            "RANK": str(self._env.rank + index),
            "LOCAL_RANK": str(index),
            "CRA_TERMINATION_LOG": str(self._log(index)),
            "CRA_METRICS_PORT": str(self._ports[index]) if self._ports else "",
        }
        np.random.seed()  # Python's own generator does so by itself, torch's is the same in every process
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})

    def wait(self) -> int:
        """Answer for the ranks until all have ended; returns the culprit's exit code, or 0."""
        if self._env.metrics_port:
            telemetry.serve(
                self._env.metrics_port,
                metrics=lambda: merge([self._get(port, "metrics") or b"" for port in self._ports]),
                allocation=lambda: self._get(self._ports[0], "allocation") or b"{}",
                ready=lambda: all(self._get(port, "readyz") is not None for port in self._ports),
                address=self._env.pod_ip or "0.0.0.0",
            )
        culprit = self._culprit()
        self._report(culprit)
        shutil.rmtree(self._scratch, ignore_errors=True)
        return 0 if culprit is None else _exit_code(self._codes[culprit])

    def _culprit(self) -> int | None:
        """Wait for every rank; the first failure ends the rest. Returns whose failure is the pod's."""
        failed: list[int] = []
        killing: threading.Timer | None = None
        while len(self._codes) < len(self._pids):
            pid, status = os.wait()
            if pid not in self._pids:
                continue  # an orphan, which the first process of a container inherits
            index = self._pids.index(pid)
            code = self._codes[index] = os.waitstatus_to_exitcode(status)
            if code == 0 or (killing is not None and killing.finished.is_set()):
                continue
            failed.append(index)
            if killing is None:
                self._signal(signal.SIGTERM)
                killing = threading.Timer(GRACE_SECONDS, self._signal, [signal.SIGKILL])
                killing.daemon = True
                killing.start()
        if killing is not None:
            killing.cancel()
        # A rank that lost a peer or left may have ended before the one that it lost.
        consequences = (termination.PEER_LOST, termination.LEFT, -signal.SIGTERM)
        causes = [index for index in failed if self._codes[index] not in consequences]
        return next(iter(causes + failed), None)

    def _signal(self, number: signal.Signals) -> None:
        for index, pid in enumerate(self._pids):
            if index not in self._codes:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)

    def _log(self, index: int) -> Path:
        return self._scratch / f"termination-{index}"

    def _report(self, culprit: int | None) -> None:
        """The pod says what the culprit said, or else what its first rank said."""
        log = self._log(culprit or 0)
        if self._env.termination_log and log.exists():
            with contextlib.suppress(OSError):
                self._env.termination_log.write_bytes(log.read_bytes())

    def _get(self, port: int, path: str) -> bytes | None:
        """What a rank's own endpoint answers; None when it is not there or not ready."""
        host = self._env.pod_ip or "127.0.0.1"
        url = f"http://[{host}]:{port}/{path}" if ":" in host else f"http://{host}:{port}/{path}"
        try:
            with urllib.request.urlopen(url, timeout=1) as answer:
                return bytes(answer.read())
        except OSError:
            return None


def merge(expositions: Sequence[bytes]) -> bytes:
    """Several expositions as one: each family's lines together, under one header."""
    families: dict[str, list[str]] = {}
    for exposition in expositions:
        header: list[str] = []
        name = ""
        for line in exposition.decode().splitlines():
            if line.startswith("# HELP"):
                name = line.split()[2]
                header = [line]
            elif line.startswith("# TYPE"):
                families.setdefault(name, [*header, line])
            else:
                families[name].append(line)
    return "".join(f"{line}\n" for lines in families.values() for line in lines).encode()


def _free_ports(address: str | None, count: int) -> list[int]:
    """Ports that are free now; held open together, so that they differ."""
    with contextlib.ExitStack() as stack:
        family = socket.AF_INET6 if address and ":" in address else socket.AF_INET
        held = [stack.enter_context(socket.socket(family)) for _ in range(count)]
        for one in held:
            one.bind((address or "0.0.0.0", 0))
        return [one.getsockname()[1] for one in held]


def _exit_code(code: int) -> int:
    """As a shell would say it: a process ended by signal n exits with 128 + n."""
    return 128 - code if code < 0 else code


if __name__ == "__main__":
    process.end(main(sys.argv[1:]))
