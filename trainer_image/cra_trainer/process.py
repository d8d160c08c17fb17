"""What this process owes the cluster from its first moment: an endpoint, an ear for SIGTERM, and last words.

`start` is called by the launcher before it runs the script and by the session when there was no launcher;
there is one `Process` per process, because it owns what belongs to the whole process: the signal, the port,
the exception hook.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

from cra_trainer import telemetry, termination
from cra_trainer.config import Env, read_env

log = logging.getLogger("cra_trainer")


class Process:
    """The process as the cluster sees it.

    Attributes:
        env: Where this process stands.
        readings: The numbers behind its endpoint.
        refresh: Brings `readings` up to date; called when somebody asks for them.
        allocation: Why each rank has its share; called when somebody asks for it.
        progress: What the last message says of the training, if the script has a session.
    """

    def __init__(self, env: Env) -> None:
        self.env = env
        self.readings = telemetry.Readings(
            rank=env.rank, world_size=env.world_size, generation=env.generation
        )
        self.refresh: Callable[[], None] = lambda: None
        self.allocation: Callable[[], Mapping[str, Any]] = dict
        self.progress: Callable[[], Mapping[str, Any]] = dict
        self._stop = threading.Event()
        self._interruptible = True
        self._said = False

    @property
    def stopping(self) -> bool:
        """Whether this process was asked to leave."""
        return self._stop.is_set()

    def exposition(self) -> bytes:
        """The numbers of this moment in the text format of Prometheus."""
        self.refresh()
        return telemetry.exposition(self.readings)

    def defer_stop(self) -> None:
        """Make SIGTERM only set `stopping`, from now on: there is something to lose."""
        self._interruptible = False

    def say(self, message: Mapping[str, Any]) -> None:
        """Write the termination message; the first one counts, since what follows it is its consequence."""
        if not self._said:
            self._said = True
            termination.write(self.env.termination_log, message)

    def fail(self, error: BaseException) -> int:
        """Say why the script ended with an exception; returns the exit code."""
        code = termination.exit_code(error)
        if code not in (termination.SUCCEEDED, termination.LEFT):
            message = {**self.progress(), **termination.error_message(error, rank=self.env.rank)}
            self.say(message)
        return code

    def give_up(self, why: str) -> None:
        """The others go on without this rank, for this reason: end the process."""
        log.error("this rank %s: the others go on without it", why)
        error = {"type": "Hung", "message": f"this rank {why}", "rank": self.env.rank}
        self.say({**self.progress(), "outcome": "failed", "error": error})
        leave(termination.FAILED)

    def asked_to_leave(self) -> None:
        """SIGTERM has come."""
        self._stop.set()
        if self._interruptible:
            self.say({**self.progress(), "outcome": "left"})
            leave(termination.LEFT)
        log.info("asked to leave: the training stops after a step that all ranks agree on")


def on_sigterm(then: Callable[[], None]) -> None:
    """Call this, in a thread of its own, at each SIGTERM.

    A handler in Python needs the main thread, which may be in a collective or wait for a child; and another
    thread may be the one that takes the signal, so that nothing interrupts it there.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    signal.signal(signal.SIGTERM, lambda *_: None)

    def wait() -> None:
        while data := os.read(reader, 64):
            if signal.SIGTERM in data:
                then()

    threading.Thread(target=wait, name="cra-sigterm", daemon=True).start()


def end(code: int) -> None:
    """End the process as the interpreter would, but leave the memory as it is: to take torch apart costs a
    second of CPU, and libraries complain of what a fork made immortal.
    """
    threading._shutdown()  # type: ignore[attr-defined]  # as children of multiprocessing do
    atexit._run_exitfuncs()
    leave(code)


def leave(code: int) -> None:
    """End the process now, without destructors that could wait for a peer that is gone."""
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


_process: Process | None = None


def start(env: Env | None = None) -> Process:
    """This process's `Process`, made on the first call: endpoint up, SIGTERM heard, exception hook in place.

    Raises:
        ConfigError: A variable of the environment cannot be used.
        OSError: The metrics port is taken.
    """
    global _process
    if _process is not None:
        return _process
    process = Process(env or read_env())
    if not logging.getLogger().handlers:
        form = f"%(asctime)s rank {process.env.rank} %(levelname)s %(message)s"
        logging.basicConfig(level=logging.INFO, format=form)
    if process.env.metrics_port is not None:
        telemetry.serve(
            process.env.metrics_port,
            metrics=process.exposition,
            allocation=lambda: json.dumps(process.allocation()).encode(),
            ready=lambda: process.readings.ready,
            address=process.env.pod_ip or "0.0.0.0",
        )
    on_sigterm(process.asked_to_leave)
    previous = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        code = process.fail(error)
        previous(kind, error, trace)
        if code == termination.PEER_LOST:
            leave(code)

    sys.excepthook = hook
    _process = process
    return process
