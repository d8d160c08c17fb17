"""Wires the node agent together: watches feed pods, names, addresses and volumes; servers tell of them."""

import asyncio
import contextlib
import logging
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path

import aiohttp

from . import server
from .accounting import Accounting
from .api import Api, Object
from .config import AgentConfig
from .dns import DnsServer
from .endpoints import Endpoints
from .events import Recorder
from .network import Network
from .nodes import LOST_ANNOTATION, Node
from .pod import Pod
from .provisioner import Provisioner
from .proxy import ServiceProxy
from .quota import choose
from .runtime import Runtime
from .sandbox import Spawner
from .watch import Watch

_log = logging.getLogger(__name__)
_DISCOVERY = "/apis/discovery.k8s.io/v1"
_STOP_SECONDS = 2.0


class Agent:
    """All nodes and pods of the cluster."""

    def __init__(self, config: AgentConfig) -> None:
        self._config = config
        self._nodes = {node.name: Node(node, config) for node in config.nodes}
        self._pods: dict[str, Pod] = {}
        self._lives: dict[str, asyncio.Task[None]] = {}
        self._runtime: Runtime | None = None

    def pods(self) -> Iterable[Pod]:
        """All pods that are bound to one of the nodes."""
        return self._pods.values()

    def find(self, namespace: str, name: str) -> Pod | None:
        """A pod by namespace and name."""
        for pod in self._pods.values():
            meta = pod.object["metadata"]
            if (meta["namespace"], meta["name"]) == (namespace, name):
                return pod
        return None

    def _on_pod(self, pod: Object, exists: bool) -> None:
        uid = pod["metadata"]["uid"]
        node = self._nodes.get(pod["spec"].get("nodeName", ""))
        known = self._pods.get(uid)
        if known is not None:
            if exists:
                known.update(pod)
            else:
                known.vanish()
        elif exists and node is not None:
            assert self._runtime is not None
            self._pods[uid] = Pod(self._runtime, node, pod)
            self._lives[uid] = asyncio.create_task(self._live(self._pods[uid]))

    async def _live(self, pod: Pod) -> None:
        try:
            await pod.run()
        except Exception:
            _log.exception("pod %s was lost track of", pod.object["metadata"]["name"])
            pod.kill()
        finally:
            del self._pods[pod.uid], self._lives[pod.uid]
            directory = self._config.root_dir / "pods" / pod.uid
            await asyncio.to_thread(shutil.rmtree, directory, ignore_errors=True)

    def _on_node(self, node: Object, exists: bool) -> None:
        known = self._nodes.get(node["metadata"]["name"])
        if known is None:
            return
        lost = exists and node["metadata"].get("annotations", {}).get(LOST_ANNOTATION) == "true"
        if not lost:
            known.reachable.set()
        elif known.reachable.is_set():
            known.reachable.clear()
            for pod in self._pods.values():
                if pod.node is known:
                    pod.kill()

    async def run(self) -> None:
        """Plays the nodes until cancelled."""
        config = self._config
        await asyncio.to_thread(_empty, config.root_dir / "pods")
        network = Network(
            bridge=config.bridge,
            gateway=config.gateway,
            pod_cidr=config.pod_cidr,
            service_cidr=config.service_cidr,
        )
        await network.set_up([node.ip for node in config.nodes])
        endpoints = Endpoints()
        accounting = Accounting(self.pods)
        async with contextlib.AsyncExitStack() as stack:
            api = await stack.enter_async_context(Api.from_kubeconfig(config.kubeconfig))
            http = await stack.enter_async_context(aiohttp.ClientSession())
            quota = choose(config.root_dir, accounting.pids)
            stack.callback(quota.close)
            self._runtime = Runtime(
                api=api,
                config=config,
                endpoints=endpoints,
                events=Recorder(api),
                http=http,
                keep=_kept_paths(config),
                network=network,
                quota=quota,
                spawner=Spawner(),
            )
            stack.push_async_callback(self._end_pods)
            proxy, provisioner = (
                ServiceProxy(endpoints, network),
                Provisioner(api, config.root_dir / "claims"),
            )
            services, slices = Watch("/api/v1/services"), Watch(f"{_DISCOVERY}/endpointslices")
            claims, volumes = Watch("/api/v1/persistentvolumeclaims"), Watch("/api/v1/persistentvolumes")
            nodes, pods = Watch("/api/v1/nodes"), Watch("/api/v1/pods", field_selector="spec.nodeName!=")
            endpoints.follow(services, slices)
            proxy.follow(services)
            provisioner.follow(claims, volumes)
            nodes.on_change(self._on_node)
            pods.on_change(self._on_pod)
            await DnsServer(config.cluster_domain, endpoints).start(network, config.cluster_dns)
            await server.serve_kubelet(config, self.find)
            for node in self._nodes.values():
                await server.serve_exporter(node, self._pods.get)
            async with asyncio.TaskGroup() as group:
                for watch in (services, slices, claims, volumes, nodes):
                    group.create_task(watch.run(api))
                # Containers get variables of all services, so these must be known first.
                await asyncio.gather(services.synced.wait(), slices.synced.wait(), nodes.synced.wait())
                group.create_task(pods.run(api))
                group.create_task(proxy.run())
                group.create_task(provisioner.run())
                group.create_task(accounting.run())
                for node in self._nodes.values():
                    group.create_task(node.run(api))

    async def _end_pods(self) -> None:
        """Ends all processes, so that their control groups can go."""
        for life in self._lives.values():
            life.cancel()
        for pod in self._pods.values():
            pod.kill()
        ends = [c.process.exited for p in self._pods.values() for c in p.containers.values() if c.process]
        if ends:
            await asyncio.wait(ends, timeout=_STOP_SECONDS)


def _empty(folder: Path) -> None:
    """What an agent before this one left is nobody's."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


def _kept_paths(config: AgentConfig) -> list[str]:
    """Where the interpreter, its packages, this checkout and the images' programs live."""
    paths = {sys.prefix, sys.base_prefix, *sys.path}
    for image in config.images.values():
        for variable in ("PATH", "PYTHONPATH"):
            paths.update(image.env.get(variable, "").split(":"))
    paths.add(str(Path(__file__).resolve().parents[3]))
    return sorted({str(Path(path).resolve()) for path in paths if path and Path(path).exists()})


async def run_agent(config: AgentConfig, stop: asyncio.Event) -> None:
    """Plays the nodes until `stop` is set."""
    task = asyncio.create_task(Agent(config).run())
    stopped = asyncio.create_task(stop.wait())
    await asyncio.wait({task, stopped}, return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
