"""Children of init: starting, reaping, readiness, and what is said about them.

Init is the parent of everything that is orphaned in its PID namespace, so it must wait for *any* child. The
process classes of the standard library wait for their own child only and would race with that; here one
SIGCHLD handler reaps all and tells the component whose process it was.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from e2e.local.components import Component
from e2e.local.errors import StartError
from e2e.local.layout import REPOSITORY, Layout
from e2e.local.rest import answers, client_context

State = Literal["starting", "ready", "stopped", "failed"]
_POLL = 0.05
_START_TIMEOUT = 90.0
_TAIL_LINES = 15


@dataclass
class Running:
    """A component's process and what is known of it."""

    component: Component
    probe: Callable[[], bool]
    process: subprocess.Popen[bytes]
    state: State = "starting"
    exit_code: int | None = None
    stopping: bool = False
    ended: asyncio.Event = field(default_factory=asyncio.Event)


class Supervisor:
    """Runs components and reports every change of state.

    Args:
        layout: Where logs go and certificates lie.
        report: Called with the component's name and its new state.
    """

    def __init__(self, layout: Layout, report: Callable[[str, State], None]) -> None:
        self._layout = layout
        self._report = report
        self._running: dict[str, Running] = {}
        asyncio.get_running_loop().add_signal_handler(signal.SIGCHLD, self._reap)

    def start(self, component: Component, probe: Callable[[], bool] | None = None) -> None:
        """Start a component's process; its output is appended to its log.

        Args:
            component: What to run.
            probe: Tells whether it works, beside its health URL; called in a thread.
        """
        health = self._health_probe(component)
        with self._layout.log(component.name).open("ab") as log:
            process = subprocess.Popen(
                component.argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self._layout.root,
                env=child_environment(os.environ),
                start_new_session=True,
            )
        self._running[component.name] = Running(
            component, lambda: health() and (probe is None or probe()), process
        )
        self._report(component.name, "starting")

    async def ready(self, name: str) -> None:
        """Wait until a started component works.

        Raises:
            StartError: It ended, or did not get ready in time; the message holds the end of its log.
        """
        running = self._running[name]
        deadline = time.monotonic() + _START_TIMEOUT
        while not await asyncio.to_thread(running.probe):
            if running.ended.is_set():
                raise StartError(self._obituary(running))
            if time.monotonic() > deadline:
                tail = log_tail(self._layout.log(name))
                raise StartError(f"{name} is not ready after {_START_TIMEOUT:.0f} s; its log ends:\n{tail}")
            await asyncio.sleep(_POLL)
        if running.state == "starting":
            self._change(running, "ready")

    async def stop(self, name: str) -> None:
        """Kill a component, as a crash would, and wait for its end.

        Raises:
            KeyError: No such component was ever started.
        """
        running = self._running[name]
        running.stopping = True
        if not running.ended.is_set():
            running.process.send_signal(signal.SIGKILL)
            await running.ended.wait()

    async def restart(self, name: str) -> None:
        """Start a component again, after killing it if it runs, and wait until it works.

        Raises:
            KeyError: No such component was ever started.
            StartError: It does not come up.
        """
        await self.stop(name)
        self.start(self._running[name].component)
        await self.ready(name)

    def status(self) -> Mapping[str, Mapping[str, Any]]:
        """State, exit code and, for what has failed, the end of the log of each component."""
        return {name: self._describe(running) for name, running in self._running.items()}

    def _describe(self, running: Running) -> Mapping[str, Any]:
        described: dict[str, Any] = {"state": running.state, "exitCode": running.exit_code}
        if running.state == "failed":
            described["message"] = self._obituary(running)
        return described

    def _health_probe(self, component: Component) -> Callable[[], bool]:
        url = component.health
        if url is None:
            return lambda: True
        context = client_context(self._layout, *component.client) if url.startswith("https:") else None
        return lambda: answers(url, context)

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            for running in self._running.values():
                if running.process.pid == pid and running.exit_code is None:
                    running.exit_code = running.process.returncode = os.waitstatus_to_exitcode(status)
                    self._change(running, "stopped" if running.stopping else "failed")
                    running.ended.set()

    def _change(self, running: Running, state: State) -> None:
        running.state = state
        self._report(running.component.name, state)

    def _obituary(self, running: Running) -> str:
        log = self._layout.log(running.component.name)
        return (
            f"{running.component.name} ended with {_ending(running.exit_code)}; {log} ends:\n{log_tail(log)}"
        )


def child_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """What components inherit: no proxy, kubeconfig or Go settings of the user's may reach them."""
    kept = {key: environment[key] for key in ("PATH", "HOME", "TMPDIR", "LANG") if key in environment}
    return kept | {"PYTHONPATH": str(REPOSITORY)}


def log_tail(path: Path) -> str:
    """The last lines of a log, indented."""
    lines = path.read_text(errors="replace").splitlines()[-_TAIL_LINES:]
    return "\n".join(f"  {line[:1000]}" for line in lines) or "  (empty)"


def _ending(code: int | None) -> str:
    if code is not None and code < 0:
        return f"signal {signal.Signals(-code).name}"
    return f"exit code {code}"
