"""One container of a pod through all its runs: start, probes, end, back-off, restart.

A container reports by replacing its frozen `view` and telling its pod; it never talks to the API server about
its status itself.
"""

import asyncio
import contextlib
import dataclasses
import os
import secrets
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import orders, quantity, status
from .api import Object
from .care import Care
from .clock import now
from .logs import ContainerLog, render, tail
from .orders import PodContext, RefusedError
from .runtime import Runtime
from .sandbox import Process, StartError
from .status import ContainerView, Terminated, Waiting

_MESSAGE_BYTES = 4096
_FALLBACK_LINES, _FALLBACK_BYTES = 80, 2048
_REFUSAL_SECONDS = 1.0
_LAST_OUTPUT_SECONDS = 2.0


class BackOff:
    """Growing waits: none at first, then from `first` doubling up to `ceiling`."""

    def __init__(self, first: float, ceiling: float) -> None:
        self._first, self._ceiling = first, ceiling
        self._next = 0.0

    def reset(self) -> None:
        """Starts over, after a long good run."""
        self._next = 0.0

    def take(self) -> float:
        """The seconds to wait this time."""
        wait = self._next
        self._next = min(max(wait * 2, self._first), self._ceiling)
        return wait


class Container:
    """A container of a pod."""

    def __init__(
        self, runtime: Runtime, spec: Object, *, field: str, waits_for: str, on_change: Callable[[], None]
    ) -> None:
        """Makes a container that does not run yet.

        Args:
            runtime: the agent's means.
            spec: the container as in the pod.
            field: its place there, `containers` or `initContainers`.
            waits_for: the reason to give until its turn comes.
            on_change: called after each change of `view`.
        """
        self._runtime, self.spec, self._on_change = runtime, spec, on_change
        self.name: str = spec["name"]
        self.view = ContainerView(waiting=Waiting(reason=waits_for))
        self.process: Process | None = None
        self.logs: list[ContainerLog] = []
        """Of all runs, the last one last."""
        self.started = asyncio.Event()
        """Set once it has started for the first time, its startup probe included."""
        limit = spec.get("resources", {}).get("limits", {}).get("memory")
        self.memory_limit = None if limit is None else int(quantity.parse(limit))
        self._path = f"spec.{field}{{{self.name}}}"
        self._stopping = asyncio.Event()
        self._out_of_memory = False
        self._back_off = BackOff(runtime.config.back_off_seconds, runtime.config.back_off_max_seconds)
        self._context: PodContext | None = None
        self._care: Care | None = None
        self._ending: asyncio.Task[None] | None = None

    def _set(self, **changes: Any) -> None:
        state = {"waiting": None, "running_since": None, "terminated": None}
        if not state.keys().isdisjoint(changes):
            changes = state | changes
        view = dataclasses.replace(self.view, **changes)
        if view != self.view:
            self.view = view
            self._on_change()

    def _event(self, kind: str, reason: str, message: str) -> None:
        context = self._context
        if context is not None and context.node.reachable.is_set():
            name = context.node.config.name
            self._runtime.events.record(context.pod, name, kind, reason, message, container=self._path)

    async def run(self, context: PodContext, policy: str) -> None:
        """Runs the container, again and again as `policy` wants it; returns when it will not run any more."""
        self._context = context
        while True:
            await context.node.reachable.wait()
            if self._stopping.is_set():
                return
            started = time.monotonic()
            try:
                await self._run_once(context)
            except RefusedError as refusal:
                await self._wait_after(refusal)
                continue
            end = self.view.terminated
            assert end is not None
            if self._stopping.is_set() or not status.restarts(policy, end.exit_code):
                return
            if time.monotonic() - started > 2 * self._runtime.config.back_off_max_seconds:
                self._back_off.reset()
            if wait := self._back_off.take():
                meta = context.pod["metadata"]
                pod = f"{meta['name']}_{meta['namespace']}({meta['uid']})"
                message = f"back-off {wait:g}s restarting failed container={self.name} pod={pod}"
                self._set(waiting=Waiting(reason="CrashLoopBackOff", message=message), last=end)
                text = f"Back-off restarting failed container {self.name} in pod {pod}"
                self._event("Warning", "BackOff", text)
                if await self._stopped_within(wait):
                    self._set(terminated=end)
                    return
            self._set(waiting=Waiting(reason="ContainerCreating"), last=end, restarts=self.view.restarts + 1)

    async def _wait_after(self, refusal: RefusedError) -> None:
        self._set(waiting=Waiting(reason=refusal.reason, message=str(refusal)))
        self._event("Warning", "Failed", f"Error: {refusal.reason}: {refusal}")
        # NB: a watcher of a refused image should see both the refusal and the back-off.
        stopped = await self._stopped_within(_REFUSAL_SECONDS)
        if refusal.reason == "ErrImagePull" and not stopped:
            message = f'Back-off pulling image "{self.spec["image"]}": {refusal}'
            self._set(waiting=Waiting(reason="ImagePullBackOff", message=message))
            self._event("Normal", "BackOff", message)
            await self._stopped_within(self._back_off.take() or self._runtime.config.back_off_seconds)

    async def _stopped_within(self, seconds: float) -> bool:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)
        return self._stopping.is_set()

    async def _run_once(self, context: PodContext) -> None:
        order, message_file = await orders.prepare(self._runtime, context, self.spec, self.view.restarts)
        self._event("Normal", "Pulled", f'Container image "{self.spec["image"]}" already present on machine')
        log = ContainerLog(context.directory / "logs" / self.name / f"{self.view.restarts}.log")
        self.logs.append(log)
        output = await log.open()
        self._out_of_memory = False
        identity = f"host://{secrets.token_hex(32)}"
        started_at = now()
        try:
            process = await self._runtime.spawner.start(order, output)
        except StartError as error:
            self._event("Warning", "Failed", f"Error: {error}")
            end = Terminated(
                exit_code=128,
                reason="StartError",
                message=f"failed to start container: {error}",
                started_at=started_at,
                finished_at=now(),
                container_id=identity,
            )
            self._set(terminated=end, ready=False, started=False, container_id=identity)
            return
        finally:
            os.close(output)
        self.process = process
        if self._stopping.is_set():
            self.kill()
        self._event("Normal", "Created", f"Container created: {self.name}")
        self._event("Normal", "Started", f"Container started: {self.name}")
        self._set(running_since=started_at, container_id=identity)
        self._care = Care(
            self.spec,
            self,
            process,
            order.env,
            address=context.facts.pod_ip,
            http=self._runtime.http,
            spawner=self._runtime.spawner,
        )
        care = asyncio.create_task(self._care.run())
        try:
            code = await process.exited
        finally:
            care.cancel()
            self.process = self._care = None
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(log.complete.wait(), _LAST_OUTPUT_SECONDS)
        end = Terminated(
            exit_code=code,
            reason=self._reason(code),
            message=self._message(message_file, log, code),
            started_at=started_at,
            finished_at=now(),
            container_id=identity,
        )
        self._set(terminated=end, ready=False, started=False)

    def _reason(self, code: int) -> str:
        if self._out_of_memory and code == 128 + signal.SIGKILL:
            return "OOMKilled"
        return "Error" if code else "Completed"

    def _message(self, file: Path, log: ContainerLog, code: int) -> str:
        message = file.read_bytes()[:_MESSAGE_BYTES].decode(errors="replace")
        if not message and code and self.spec.get("terminationMessagePolicy") == "FallbackToLogsOnError":
            records = tail(log.path.read_bytes().splitlines(), _FALLBACK_LINES)
            text = b"".join(render(record, timestamps=False) for record in records)
            message = text[-_FALLBACK_BYTES:].decode(errors="replace")
        return message

    def warn(self, reason: str, message: str) -> None:
        """Posts a warning about the container."""
        self._event("Warning", reason, message)

    def set_ready(self, ready: bool, /) -> None:
        """Takes the readiness probe's verdict."""
        self._set(ready=ready)

    def set_started(self, *, ready: bool) -> None:
        """The container has started, so far as a startup probe can tell."""
        self._set(started=True, ready=ready)
        self.started.set()

    def end(self, why: str, probe: Object) -> None:
        """Ends this run because of a probe, or of a hook that failed (and has no grace period of its own)."""
        if self._ending is None or self._ending.done():
            self._event("Normal", "Killing", f"Container {self.name} {why}")
            grace = probe.get("terminationGracePeriodSeconds")
            if grace is None:
                assert self._context is not None
                grace = self._context.pod["spec"].get("terminationGracePeriodSeconds", 30)
            self._ending = asyncio.create_task(self._terminate(grace))

    async def stop(self, grace: float) -> None:
        """Ends the container for good: hook, SIGTERM, SIGKILL after `grace` seconds."""
        self._stopping.set()
        if self.process is not None:
            self._event("Normal", "Killing", f"Stopping container {self.name}")
            await self._terminate(grace)

    async def _terminate(self, grace: float) -> None:
        process, care = self.process, self._care
        if process is None:
            return
        deadline = time.monotonic() + grace
        if grace > 0:
            if care is not None:
                await care.pre_stop(grace)
            process.signal(signal.SIGTERM)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(process.exited), max(0.0, deadline - time.monotonic()))
        process.signal(signal.SIGKILL)
        await process.exited

    def kill(self, *, out_of_memory: bool = False) -> None:
        """Ends the current run at once."""
        if self.process is not None:
            self._out_of_memory = out_of_memory
            self.process.signal(signal.SIGKILL)
