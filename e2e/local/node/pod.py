"""One pod from its binding to its end: prepare, init containers, containers, stop, delete.

One task *plays* the pod and never talks about it; another (`reporting`) writes its status whenever a view has
changed. A pod ends by itself, at its deadline, or by deletion, whatever comes first; its object is deleted
only after its processes have ended and its last status was written.
"""

import asyncio
import dataclasses
import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from . import files, status
from .api import UNREACHABLE, Object
from .clock import now
from .container import Container
from .environ import Facts
from .gpu import RESOURCE, AdmissionError, Holder, Meter
from .mounts import Mount
from .network import PodNetwork
from .nodes import Node
from .orders import PodContext
from .reporting import Reporter
from .runtime import Runtime
from .status import PodView, Waiting
from .volumes import VolumeError, Volumes

_log = logging.getLogger(__name__)
_RETRY_SECONDS = 0.5
_MAX_RETRY_SECONDS = 10.0
_UNSUPPORTED = ("hostNetwork", "hostPID", "hostIPC")


class Pod:
    """A pod of one of the agent's nodes."""

    def __init__(self, runtime: Runtime, node: Node, pod: Object) -> None:
        self._runtime, self.node, self.object = runtime, node, pod
        self.uid: str = pod["metadata"]["uid"]
        self._directory = runtime.config.root_dir / "pods" / self.uid
        self._deleting = asyncio.Event()
        self._grace_changed = asyncio.Event()
        self._view = PodView(containers={}, host_ip=node.config.ip)
        self._reporter = Reporter(runtime.api, node, lambda: (self.object, self.view))
        self._network: PodNetwork | None = None
        self._volumes: Volumes | None = None
        self._context: PodContext | None = None
        self._limited = False
        self.meter: Meter | None = None
        """Of its GPUs, if it holds any."""
        self._init = self._make_containers("initContainers")
        self._main = self._make_containers("containers")
        self.containers: Mapping[str, Container] = {c.name: c for c in (*self._init, *self._main)}
        if "deletionTimestamp" in pod["metadata"]:
            self._deleting.set()

    def _make_containers(self, field: str) -> list[Container]:
        spec = self.object["spec"]
        waits_for = "PodInitializing" if spec.get("initContainers") else "ContainerCreating"
        return [
            Container(self._runtime, c, field=field, waits_for=waits_for, on_change=self._on_container_change)
            for c in spec.get(field, [])
        ]

    def update(self, pod: Object) -> None:
        """Takes a newer version of the object."""
        self.object = pod
        if "deletionTimestamp" in pod["metadata"]:
            self._deleting.set()
            self._grace_changed.set()

    def vanish(self) -> None:
        """The object was deleted behind the agent's back: nothing to report to, nothing to wait for."""
        self._reporter.gone.set()
        self._deleting.set()
        self._grace_changed.set()

    def kill(self) -> None:
        """Ends all processes at once; restarts and reports follow the usual rules."""
        for container in self.containers.values():
            container.kill()

    @property
    def view(self) -> PodView:
        """What there is to report."""
        views = {name: container.view for name, container in self.containers.items()}
        return dataclasses.replace(self._view, containers=views)

    def _see(self, **changes: Any) -> None:
        self._view = dataclasses.replace(self._view, **changes)
        self._reporter.notify()

    def _on_container_change(self) -> None:
        self._reporter.notify()
        if self.meter is not None and not self._limited and all(c.view.ready for c in self._main):
            self._limited = True
            self._runtime.quota.limit(self.uid, self.meter.cores)

    def _warn(self, reason: str, message: str) -> None:
        if self.node.reachable.is_set():
            self._runtime.events.record(self.object, self.node.config.name, "Warning", reason, message)

    def _fail(self, reason: str, message: str) -> None:
        self._see(failure=Waiting(reason=reason, message=message))

    async def run(self) -> None:
        """Lives the pod's life; returns when its object is gone."""
        reports = asyncio.create_task(self._reporter.run())
        try:
            ended = self.object.get("status", {}).get("phase") in ("Succeeded", "Failed")
            if not ended:
                await self.node.reachable.wait()
                await self._live()
            await self._deleting.wait()
            reports.cancel()
            if not ended:
                await self._reporter.flush()
            await self._reporter.delete()
        finally:
            reports.cancel()
            if self._volumes is not None:
                await asyncio.to_thread(self._volumes.remove)

    async def _live(self) -> None:
        if started := self.object.get("status", {}).get("startTime"):
            # Its processes have ended with the agent that started them.
            self._see(start_time=started, stopped=True)
            self._fail("NodeAgentRestarted", "the node agent was restarted")
            return
        play = asyncio.create_task(self._play())
        deleting = asyncio.create_task(self._deleting.wait())
        limit = self.object["spec"].get("activeDeadlineSeconds")
        done, _ = await asyncio.wait({play, deleting}, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
        deleting.cancel()
        if not done:
            self._fail("DeadlineExceeded", "Pod was active on the node longer than the specified deadline")
        self._see(stopped=True)
        if self._context is None:
            play.cancel()
        else:
            await self._stop()
        try:
            await play
        except asyncio.CancelledError:
            pass
        except Exception as error:
            _log.exception("pod %s", self.object["metadata"]["name"])
            self._fail("NodeAgentError", repr(error))
            self.kill()
        await self._release()

    async def _play(self) -> None:
        spec, meta = self.object["spec"], self.object["metadata"]
        self._see(start_time=now())
        if unsupported := [field for field in _UNSUPPORTED if spec.get(field)]:
            self._fail("UnsupportedByNode", f"{', '.join(unsupported)} is not supported by this node")
            return
        wanted = [
            (Holder(namespace=meta["namespace"], pod=meta["name"], container=container.name), count)
            for container in self.containers.values()
            if (count := int(container.spec.get("resources", {}).get("limits", {}).get(RESOURCE, 0)))
        ]
        try:
            devices = self.node.devices.allocate(self.uid, wanted)
        except AdmissionError as error:
            self._warn("UnexpectedAdmissionError", str(error))
            self._fail("UnexpectedAdmissionError", str(error))
            return
        if devices:
            assert self.node.gpu_type is not None
            self.meter = Meter(sum(count for _, count in wanted) * self.node.gpu_type.core_share)
        context = await self._prepare({name: [d.uuid for d in held] for name, held in devices.items()})
        assert self._volumes is not None
        sidecars: list[asyncio.Task[None]] = []
        tokens = asyncio.create_task(self._volumes.keep_tokens_fresh())
        try:
            if await self._initialize(context, sidecars):
                await asyncio.gather(*(c.run(context, spec["restartPolicy"]) for c in self._main))
            grace = float(spec.get("terminationGracePeriodSeconds", 30))
            await asyncio.gather(*(c.stop(grace) for c in self._init), *sidecars)
        finally:
            tokens.cancel()

    async def _initialize(self, context: PodContext, sidecars: list[asyncio.Task[None]]) -> bool:
        """Runs the init containers in order; gives whether the others may start."""
        policy = "Never" if self.object["spec"]["restartPolicy"] == "Never" else "OnFailure"
        for container in self._init:
            if status.is_sidecar(container.spec):
                sidecars.append(asyncio.create_task(container.run(context, "Always")))
                started = asyncio.create_task(container.started.wait())
                await asyncio.wait({started, sidecars[-1]}, return_when=asyncio.FIRST_COMPLETED)
                if not started.done():
                    started.cancel()
                    return False
            else:
                await container.run(context, policy)
                end = container.view.terminated
                if end is None or end.exit_code != 0:
                    return False
        return True

    async def _prepare(self, devices: Mapping[str, Sequence[str]]) -> PodContext:
        """Makes the pod's network, volumes and files."""
        runtime, config = self._runtime, self._runtime.config
        making = asyncio.ensure_future(runtime.network.create(files.hostname(self.object)))
        try:
            self._network = await asyncio.shield(making)
        except asyncio.CancelledError:
            self._network = await making
            raise
        facts = Facts(
            node_name=self.node.config.name,
            host_ip=self.node.config.ip,
            pod_ip=self._network.address,
            allocatable=self.node.allocatable,
        )
        volumes_dir, host_paths = self._directory / "volumes", config.root_dir / "host-paths"
        self._volumes = Volumes(runtime.api, self.object, facts, directory=volumes_dir, host_paths=host_paths)
        wait = _RETRY_SECONDS
        while True:
            try:
                await self._volumes.set_up()
                break
            except (VolumeError, *UNREACHABLE) as error:
                self._warn("FailedMount", str(error))
                await asyncio.sleep(wait)
                wait = min(wait * 2, _MAX_RETRY_SECONDS)
        texts = {
            "hosts": files.hosts(self.object, facts.pod_ip, config.cluster_domain),
            "hostname": files.hostname(self.object) + "\n",
            "resolv.conf": files.resolv_conf(self.object, config.cluster_dns, config.cluster_domain),
        }
        self._context = PodContext(
            pod=self.object,
            node=self.node,
            facts=facts,
            paths=self._volumes.paths,
            files=_write_files(self._directory / "etc", texts),
            namespaces=self._network.namespaces,
            groups=runtime.quota.groups(self.uid) if self.meter else [],
            devices=devices,
            directory=self._directory,
        )
        self._see(network_ready=True, pod_ip=facts.pod_ip)
        return self._context

    async def _stop(self) -> None:
        """Ends all containers within the grace period, which a second deletion may shorten meanwhile."""
        began, grace = time.monotonic(), self._grace()
        stopping = asyncio.gather(*(c.stop(grace) for c in self.containers.values()))
        while not stopping.done():
            self._grace_changed.clear()
            shortened = self._grace() < grace
            left = max(0.0, began + self._grace() - time.monotonic()) if shortened else None
            changed = asyncio.ensure_future(self._grace_changed.wait())
            both: set[asyncio.Future[Any]] = {stopping, changed}
            done, _ = await asyncio.wait(both, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            if not done:
                self.kill()
                await stopping
            changed.cancel()

    def _grace(self) -> float:
        if self._reporter.gone.is_set():
            return 0.0
        grace = self.object["metadata"].get("deletionGracePeriodSeconds")
        if grace is None:
            grace = self.object["spec"].get("terminationGracePeriodSeconds", 30)
        return float(grace)

    async def _release(self) -> None:
        """Gives back what nobody can use any more; logs and volumes stay until the object is deleted."""
        self.node.devices.release(self.uid)
        if self.meter is not None:
            self.meter = None
            self._runtime.quota.forget(self.uid)
        if self._network is not None:
            await self._runtime.network.remove(self._network)
            self._see(network_ready=False)


def _write_files(folder: Path, texts: Mapping[str, str]) -> list[Mount]:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (folder / name).write_text(text)
    return [Mount(target=f"/etc/{name}", source=str(folder / name), kind="file") for name in texts]
