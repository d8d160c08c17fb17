"""Trainer processes of one run on this machine, started and stopped as the operator does it with pods.

Each member has an index, which is its place, and a cohort: members that are started together carry its
number as their generation and wait for each other. Leaving is SIGTERM, a crash is SIGKILL. Rank 0 leads: its
step log (`benchmarks.steps`) tells what the group does.
"""

import json
import multiprocessing
import os
import runpy
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from benchmarks.steps import VARIABLE, Steps, wait

# Ranks of one machine talk over its loopback, one thread each.
COMMON = {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
LEFT = 143


class Started(Protocol):
    """A process of ours."""

    @property
    def pid(self) -> int | None: ...

    def poll(self) -> int | None:
        """Its exit code, negative for a signal; None while it runs."""


Start = Callable[[str, Mapping[str, str], Path], Started]


def start_python(module: str, environ: Mapping[str, str], output: Path) -> Started:
    """Start a training module as the command of a pod does."""
    with output.open("ab") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "cra_trainer.script", "-m", module],
            env={**os.environ, **COMMON, **environ},
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
        )


class Forked:
    """The same process, forked from one that has imported torch already: it is there in no time."""

    _context = multiprocessing.get_context("forkserver")
    # NB: torch imports its compiler when the first optimizer is made, which takes longer than torch itself.
    _context.set_forkserver_preload(["torch._dynamo", "cra_trainer.session", "cra_trainer.script"])

    def __init__(self, module: str, environ: Mapping[str, str], output: Path) -> None:
        self._process = self._context.Process(target=_run_forked, args=(module, dict(environ), output))
        self._process.start()

    @property
    def pid(self) -> int | None:
        return self._process.pid

    def poll(self) -> int | None:
        return self._process.exitcode


def _run_forked(module: str, environ: Mapping[str, str], output: Path) -> None:
    os.environ.update(COMMON)
    os.environ.update(environ)
    file = os.open(output, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.dup2(file, 1)
    os.dup2(file, 2)
    from cra_trainer import script

    def run() -> None:
        runpy.run_module(module, run_name="__main__", alter_sys=True)

    sys.exit(script.guard(run))


@dataclass
class Member:
    """A process of the group, by its place and cohort."""

    index: int
    generation: int
    process: Started
    output: Path
    steps: Steps

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def tail(self) -> str:
        """How it ended and the last lines that it wrote."""
        lines = self.output.read_text(errors="replace").splitlines()[-15:] if self.output.exists() else []
        ended = f"rank {self.index} of generation {self.generation} ended with {self.process.poll()}"
        return "\n".join([f"could not measure: {ended}", *lines])

    def signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.alive and self.process.pid is not None:
            os.kill(self.process.pid, number)


class LocalGroup:
    """One run: a training module on a changing number of processes.

    Args:
        module: What every rank runs.
        directory: For their logs; made when it is not there.
        config: The job's spec as the trainer reads it.
        environ: Further variables of every rank.
        start: How a process is started, until it is set to something else.
    """

    def __init__(
        self,
        module: str,
        directory: Path,
        *,
        config: Mapping[str, Any] | None = None,
        environ: Mapping[str, str] | None = None,
        start: Start = start_python,
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._module, self._directory, self.start = module, directory, start
        self._environ = {
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(free_port()),
            "CRA_CONFIG": json.dumps(config or {}),
            **(environ or {}),
        }
        self._generation = 0
        self.members: dict[int, Member] = {}

    @property
    def leader(self) -> Member:
        """Rank 0, which is there from the first to the last step."""
        return self.members[0]

    def join(self, *indices: int) -> None:
        """Start a cohort in these places; the first one founds the group."""
        self._generation += 1
        world_size = max(self.members.keys() | set(indices)) + 1
        for index in indices:
            name = self._directory / f"{self._generation}-{index}"
            output, steps = name.with_suffix(".log"), name.with_suffix(".steps")
            environ = {
                **self._environ,
                "RANK": str(index),
                "WORLD_SIZE": str(world_size),
                "CRA_GENERATION": str(self._generation),
                "CRA_JOINING": str(len(indices)),
                "CRA_TERMINATION_LOG": str(name.with_suffix(".message")),
                VARIABLE: str(steps),
            }
            process = self.start(self._module, environ, output)
            self.members[index] = Member(index, self._generation, process, output, Steps(steps))

    def leave(self, *indices: int) -> list[Member]:
        """Ask these to leave, as the deletion of their pods does."""
        leaving = [self.members.pop(index) for index in indices]
        for member in leaving:
            member.signal(signal.SIGTERM)
        return leaving

    def wait_left(self, leaving: Iterable[Member]) -> None:
        """Wait until those who were asked have left, with the exit code that says so."""
        wait(
            lambda: not any(member.alive for member in leaving),
            what="leaving after SIGTERM",
            check=self.check,
        )
        for member in leaving:
            # Who has not come far enough to hear the signal is ended by it.
            unheard = not member.steps.steps and member.process.poll() == -signal.SIGTERM
            if member.process.poll() != LEFT and not unheard:
                raise SystemExit(member.tail())

    def kill(self, index: int) -> None:
        """SIGKILL one."""
        self.members.pop(index).signal(signal.SIGKILL)

    def check(self) -> None:
        """Raise when a member has ended that nobody asked to."""
        for member in self.members.values():
            if not member.alive:
                raise SystemExit(member.tail())

    def wait_end(self, *, seconds: float) -> None:
        """Wait until all members have come to the end of the training."""
        wait(
            lambda: not any(member.alive for member in self.members.values()),
            what="the end of the training",
            seconds=seconds,
        )
        for member in self.members.values():
            if member.process.poll() != 0:
                raise SystemExit(member.tail())

    def wait_size(self, size: int, *, steps: int = 1, seconds: float = 120.0) -> None:
        """Wait until the leader's last steps were taken by so many ranks."""

        def reached() -> bool:
            last = self.leader.steps.steps[-steps:]
            return len(last) == steps and all(line.world_size == size for line in last)

        wait(reached, what=f"{steps} steps of {size} ranks", check=self.check, seconds=seconds)

    def __enter__(self) -> "LocalGroup":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for member in self.members.values():
            member.signal(signal.SIGKILL)
        for member in self.members.values():
            while member.alive:
                time.sleep(0.01)
        self.members = {}


def free_port() -> int:
    """A TCP port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
