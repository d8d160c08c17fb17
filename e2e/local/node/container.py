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
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from . import environ, files, mounts, probes, quantity, status, volumes
from .api import ApiError, Object
from .clock import now
from .config import ImageConfig, parse_image
from .environ import Facts
from .logs import ContainerLog, render, tail
from .nodes import Node
from .runtime import Runtime
from .sandbox import Order, Process, StartError
from .status import ContainerView, Terminated, Waiting

_NOT_FOUND = 404
_MESSAGE_BYTES = 4096
_FALLBACK_LINES, _FALLBACK_BYTES = 80, 2048
_OUTPUT_BYTES = 10_000
_DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_REFUSAL_SECONDS = 1.0
_LAST_OUTPUT_SECONDS = 2.0


class _RefusedError(Exception):
    """The container cannot be started now; a later try may go better."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclasses.dataclass(frozen=True, kw_only=True)
class PodContext:
    """What a container needs from its pod once that has its network and volumes."""

    pod: Object
    node: Node
    facts: Facts
    paths: Mapping[str, Path]
    """Where its volumes lie."""
    files: Sequence[mounts.Mount]
    """What every container mounts."""
    namespaces: Sequence[int]
    groups: Sequence[str]
    devices: Mapping[str, Sequence[str]]
    """Ids of the GPUs of each container."""
    directory: Path


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
        self._env: dict[str, str] = {}
        self._killing: set[asyncio.Task[None]] = set()

    def _set(self, **changes: Any) -> None:
        state = {"waiting": None, "running_since": None, "terminated": None}
        if not state.keys().isdisjoint(changes):
            changes = state | changes
        view = dataclasses.replace(self.view, **changes)
        if view != self.view:
            self.view = view
            self._on_change()

    def _event(self, context: PodContext, kind: str, reason: str, message: str) -> None:
        if context.node.reachable.is_set():
            name = context.node.config.name
            self._runtime.events.record(context.pod, name, kind, reason, message, container=self._path)

    async def run(self, context: PodContext, policy: str) -> None:
        """Runs the container, again and again as `policy` wants it; returns when it will not run any more."""
        while not self._stopping.is_set():
            await context.node.reachable.wait()
            started = time.monotonic()
            try:
                await self._run_once(context)
            except _RefusedError as refusal:
                await self._wait_after(refusal, context)
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
                self._event(context, "Warning", "BackOff", text)
                if await self._stopped_within(wait):
                    self._set(terminated=end)
                    return
            self._set(waiting=Waiting(reason="ContainerCreating"), last=end, restarts=self.view.restarts + 1)

    async def _wait_after(self, refusal: _RefusedError, context: PodContext) -> None:
        self._set(waiting=Waiting(reason=refusal.reason, message=str(refusal)))
        self._event(context, "Warning", "Failed", f"Error: {refusal.reason}: {refusal}")
        # NB: a watcher of a refused image should see both the refusal and the back-off.
        stopped = await self._stopped_within(_REFUSAL_SECONDS)
        if refusal.reason == "ErrImagePull" and not stopped:
            message = f'Back-off pulling image "{self.spec["image"]}": {refusal}'
            self._set(waiting=Waiting(reason="ImagePullBackOff", message=message))
            self._event(context, "Normal", "BackOff", message)
            await self._stopped_within(self._back_off.take() or self._runtime.config.back_off_seconds)

    async def _stopped_within(self, seconds: float) -> bool:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)
        return self._stopping.is_set()

    async def _run_once(self, context: PodContext) -> None:
        image = self._runtime.config.images.get(parse_image(self.spec["image"]))
        if image is None:
            text = f'failed to pull image "{self.spec["image"]}": not in this node\'s catalogue'
            raise _RefusedError("ErrImagePull", text)
        self._event(
            context, "Normal", "Pulled", f'Container image "{self.spec["image"]}" already present on machine'
        )
        order, message_file = await self._prepare(context, image)
        log = ContainerLog(context.directory / "logs" / self.name / f"{self.view.restarts}.log")
        self.logs.append(log)
        output = await log.open()
        self._out_of_memory = False
        identity = f"host://{secrets.token_hex(32)}"
        started_at = now()
        try:
            self.process = await self._runtime.spawner.start(order, output)
        except StartError as error:
            self._event(context, "Warning", "Failed", f"Error: {error}")
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
        if self._stopping.is_set():
            self.kill()
        self._event(context, "Normal", "Created", f"Container created: {self.name}")
        self._event(context, "Normal", "Started", f"Container started: {self.name}")
        self._set(running_since=started_at, container_id=identity)
        care = asyncio.create_task(self._look_after(context))
        try:
            code = await self.process.exited
        finally:
            care.cancel()
            self.process = None
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

    async def _prepare(self, context: PodContext, image: ImageConfig) -> tuple[Order, Path]:
        """Turns the specification into an order; gives it with the file for the termination message."""
        spec, pod = self.spec, context.pod
        services = self._runtime.endpoints.services.values()
        links = pod["spec"].get("enableServiceLinks", True)
        base = {"PATH": _DEFAULT_PATH, "HOME": "/tmp", **image.env}
        base |= environ.service_variables(services, pod["metadata"]["namespace"], links=links)
        if devices := context.devices.get(self.name):
            base["NVIDIA_VISIBLE_DEVICES"] = ",".join(devices)
        try:
            sources = await self._sources(context)
            self._env = environ.build(spec, pod, context.facts, sources, base)
            self._env.setdefault("HOSTNAME", files.hostname(pod))
        except (environ.MissingReferenceError, ApiError) as error:
            raise _RefusedError("CreateContainerConfigError", str(error)) from error

        def expand(text: str) -> str:
            return environ.expand(text, self._env)

        command = [expand(word) for word in spec.get("command", [])]
        argv = (command or list(image.entrypoint)) + [expand(word) for word in spec.get("args", [])]
        if not argv:
            raise _RefusedError("CreateContainerError", "no command specified")
        message_file = context.directory / "messages" / self.name / str(self.view.restarts)
        message_file.parent.mkdir(parents=True, exist_ok=True)
        message_file.write_bytes(b"")
        root = context.directory / "roots" / self.name
        root.mkdir(parents=True, exist_ok=True)
        target = spec.get("terminationMessagePath") or "/dev/termination-log"
        wanted = [*context.files, mounts.Mount(target=target, source=str(message_file), kind="file")]
        try:
            wanted += volumes.container_mounts(spec, pod, context.paths, expand)
            plan = mounts.plan(wanted, mounts.HostTree(), keep=self._runtime.keep)
        except (volumes.VolumeError, mounts.MountError, OSError) as error:
            raise _RefusedError("CreateContainerError", str(error)) from error
        order = Order(
            argv=argv,
            env=self._env,
            cwd=spec.get("workingDir") or "/",
            root=root,
            plan=plan,
            read_only_root=spec.get("securityContext", {}).get("readOnlyRootFilesystem", False),
            namespaces=context.namespaces,
            groups=context.groups,
        )
        return order, message_file

    async def _sources(self, context: PodContext) -> dict[tuple[str, str], Object | None]:
        """Reads the config maps and secrets that the environment needs, as they are now."""
        namespace = context.pod["metadata"]["namespace"]
        found: dict[tuple[str, str], Object | None] = {}
        for kind, name in environ.references(self.spec):
            collection = "configmaps" if kind == "ConfigMap" else "secrets"
            try:
                found[kind, name] = await self._runtime.api.get(
                    f"/api/v1/namespaces/{namespace}/{collection}/{name}"
                )
            except ApiError as error:
                if error.status != _NOT_FOUND:
                    raise
                found[kind, name] = None
        return found

    async def _look_after(self, context: PodContext) -> None:
        """Hooks and probes of a running container, in the order that Kubernetes promises."""
        target = self._target(context)
        hook = self.spec.get("lifecycle", {}).get("postStart")
        if hook:
            fine, message = await probes.act(hook, target, limit=None)
            if not fine:
                self._event(context, "Warning", "FailedPostStartHook", f"PostStartHook failed: {message}")
                self._end(context, "failed postStart hook", {})
                return
        if probe := self.spec.get("startupProbe"):
            await self._until_started(probe, context, target)
        readiness, liveness = self.spec.get("readinessProbe"), self.spec.get("livenessProbe")
        self._set(started=True, ready=readiness is None)
        self.started.set()
        async with asyncio.TaskGroup() as group:
            if readiness:
                failed = self._on_failure(context, "Readiness")
                group.create_task(probes.watch(readiness, target, failed, lambda v: self._set(ready=v)))
            if liveness:
                failed = self._on_failure(context, "Liveness")
                verdict = self._on_verdict(context, "liveness", liveness)
                group.create_task(probes.watch(liveness, target, failed, verdict))

    async def _until_started(self, probe: Object, context: PodContext, target: probes.Target) -> None:
        started = asyncio.Event()
        give_up = self._on_verdict(context, "startup", probe)
        task = asyncio.create_task(
            probes.watch(
                probe,
                target,
                self._on_failure(context, "Startup"),
                lambda verdict: started.set() if verdict else give_up(verdict),
            )
        )
        try:
            await started.wait()
        finally:
            task.cancel()

    def _on_failure(self, context: PodContext, kind: str) -> Callable[[str], None]:
        return lambda message: self._event(context, "Warning", "Unhealthy", f"{kind} probe failed: {message}")

    def _on_verdict(self, context: PodContext, kind: str, probe: Object) -> Callable[[bool], None]:
        def verdict(healthy: bool) -> None:
            if not healthy and not self._killing:
                self._end(context, f"failed {kind} probe, will be restarted", probe)

        return verdict

    def _end(self, context: PodContext, why: str, probe: Object) -> None:
        self._event(context, "Normal", "Killing", f"Container {self.name} {why}")
        grace = probe.get("terminationGracePeriodSeconds")
        if grace is None:
            grace = context.pod["spec"].get("terminationGracePeriodSeconds", 30)
        task = asyncio.create_task(self._terminate(context, grace))
        self._killing.add(task)
        task.add_done_callback(self._killing.discard)

    def _target(self, context: PodContext) -> probes.Target:
        ports = {p["name"]: p["containerPort"] for p in self.spec.get("ports", []) if p.get("name")}
        return probes.Target(
            address=context.facts.pod_ip, ports=ports, http=self._runtime.http, execute=self._execute
        )

    async def _execute(self, argv: list[str]) -> tuple[int, str]:
        """Runs a command in the container."""
        if self.process is None:
            return 1, "the container is not running"
        read, write = os.pipe()
        with os.fdopen(read, "rb", buffering=0) as file:
            try:
                process = await self._runtime.spawner.execute(self.process, argv, self._env, write)
            except StartError as error:
                return 126, str(error)
            finally:
                os.close(write)
            try:
                code = await process.exited
            finally:
                process.signal(signal.SIGKILL)
            os.set_blocking(read, False)
            return code, (file.read(_OUTPUT_BYTES) or b"").decode(errors="replace")

    async def stop(self, context: PodContext, grace: float) -> None:
        """Ends the container for good: hook, SIGTERM, SIGKILL after `grace` seconds."""
        self._stopping.set()
        if self.process is not None:
            self._event(context, "Normal", "Killing", f"Stopping container {self.name}")
            await self._terminate(context, grace)

    async def _terminate(self, context: PodContext, grace: float) -> None:
        process = self.process
        if process is None:
            return
        deadline = time.monotonic() + grace
        hook = self.spec.get("lifecycle", {}).get("preStop")
        if hook and grace > 0:
            fine, message = await probes.act(hook, self._target(context), limit=grace)
            if not fine:
                self._event(context, "Warning", "FailedPreStopHook", f"PreStopHook failed: {message}")
        if grace > 0:
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
