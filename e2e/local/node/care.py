"""Looks after one run of a container: hooks and probes, in the order that Kubernetes promises.

The start hook comes first, then the startup probe; until that has succeeded once, no other probe runs and the
container is not ready. A hook or probe that fails for good asks for the container's end and leaves it to
others.
"""

import asyncio
import os
import signal
from collections.abc import Callable, Mapping
from typing import Protocol

import aiohttp

from . import probes
from .api import Object
from .sandbox import Process, Spawner, StartError

_OUTPUT_BYTES = 10_000


class Patient(Protocol):
    """The container, as far as its care goes."""

    def warn(self, reason: str, message: str) -> None:
        """Posts a warning."""

    def set_ready(self, ready: bool, /) -> None:
        """Takes the readiness probe's verdict."""

    def set_started(self, *, ready: bool) -> None:
        """The container has started."""

    def end(self, why: str, probe: Object) -> None:
        """Ends this run, within the probe's own grace period if it has one."""


class Care:
    """Hooks and probes of one run."""

    def __init__(
        self,
        spec: Object,
        patient: Patient,
        process: Process,
        env: Mapping[str, str],
        *,
        address: str,
        http: aiohttp.ClientSession,
        spawner: Spawner,
    ) -> None:
        self._spec, self._patient, self._process, self._env = spec, patient, process, env
        self._spawner = spawner
        ports = {port["name"]: port["containerPort"] for port in spec.get("ports", []) if port.get("name")}
        self._target = probes.Target(address=address, ports=ports, http=http, execute=self._execute)

    async def run(self) -> None:
        """Looks after the container until cancelled."""
        hook = self._spec.get("lifecycle", {}).get("postStart")
        if hook:
            fine, message = await probes.act(hook, self._target, limit=None)
            if not fine:
                self._patient.warn("FailedPostStartHook", f"PostStartHook failed: {message}")
                self._patient.end("failed postStart hook", {})
                return
        if startup := self._spec.get("startupProbe"):
            await self._until_started(startup)
        readiness, liveness = self._spec.get("readinessProbe"), self._spec.get("livenessProbe")
        self._patient.set_started(ready=readiness is None)
        async with asyncio.TaskGroup() as group:
            if readiness:
                group.create_task(self._watch("Readiness", readiness, self._patient.set_ready))
            if liveness:
                give_up = self._unless_healthy("liveness", liveness)
                group.create_task(self._watch("Liveness", liveness, give_up))

    async def pre_stop(self, limit: float) -> None:
        """Runs the stop hook, if there is one, for `limit` seconds at most."""
        if hook := self._spec.get("lifecycle", {}).get("preStop"):
            fine, message = await probes.act(hook, self._target, limit=limit)
            if not fine:
                self._patient.warn("FailedPreStopHook", f"PreStopHook failed: {message}")

    async def _watch(self, kind: str, probe: Object, on_verdict: Callable[[bool], None]) -> None:
        def on_failure(message: str) -> None:
            self._patient.warn("Unhealthy", f"{kind} probe failed: {message}")

        await probes.watch(probe, self._target, on_failure, on_verdict)

    async def _until_started(self, probe: Object) -> None:
        started = asyncio.Event()
        give_up = self._unless_healthy("startup", probe)
        watch = self._watch("Startup", probe, lambda healthy: started.set() if healthy else give_up(healthy))
        task = asyncio.create_task(watch)
        try:
            await started.wait()
        finally:
            task.cancel()

    def _unless_healthy(self, kind: str, probe: Object) -> Callable[[bool], None]:
        def verdict(healthy: bool) -> None:
            if not healthy:
                self._patient.end(f"failed {kind} probe, will be restarted", probe)

        return verdict

    async def _execute(self, argv: list[str]) -> tuple[int, str]:
        """Runs a command in the container; gives its exit code and the beginning of its output."""
        read, write = os.pipe()
        with os.fdopen(read, "rb", buffering=0) as file:
            starting = asyncio.create_task(self._start(argv, write))
            try:
                process = await asyncio.shield(starting)
            except StartError as error:
                return 126, str(error)
            except asyncio.CancelledError:
                # Too late for the one who asked: whatever comes of it must not stay.
                starting.add_done_callback(_kill)
                raise
            try:
                code = await process.exited
            finally:
                process.signal(signal.SIGKILL)
            os.set_blocking(read, False)
            return code, (file.read(_OUTPUT_BYTES) or b"").decode(errors="replace")

    async def _start(self, argv: list[str], output: int) -> Process:
        try:
            return await self._spawner.execute(self._process, argv, self._env, output)
        finally:
            os.close(output)


def _kill(starting: "asyncio.Task[Process]") -> None:
    if not starting.cancelled() and starting.exception() is None:
        starting.result().signal(signal.SIGKILL)
