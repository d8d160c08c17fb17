"""PID 1 of a cluster: brings the network up, starts the components, answers on the control socket.

Start-up is one small graph, and what can overlap does: the API server retries until etcd is there, the
controller manager until the API server is; the others start once their rights exist. When a component fails
before the cluster is ready, init says so and ends, and everything ends with it; afterwards it reports the
failure in `status` and leaves the rest running to be looked at.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from e2e.local import components, network
from e2e.local.base import apply_base_objects
from e2e.local.errors import LocalClusterError, NamespaceError
from e2e.local.forward import forward
from e2e.local.layout import APISERVER_PORT, BRIDGE, GATEWAY, POD_NETMASK, PROMETHEUS_PORT, Layout
from e2e.local.namespaces import enter_namespaces, set_hostname
from e2e.local.rest import Api, ApiError
from e2e.local.spec import ClusterSpec
from e2e.local.supervisor import State, Supervisor

_LISTENERS_GRACE = 2.0


@dataclass(frozen=True, kw_only=True)
class Sockets:
    """Listening sockets made on the host."""

    control: socket.socket
    api: socket.socket
    prometheus: socket.socket


def main(spec: ClusterSpec, sockets: Sockets) -> int:
    """Be init until somebody kills this process.

    Returns:
        The exit code of a cluster that did not come up.

    Raises:
        NamespaceError: The kernel refuses what a cluster needs.
    """
    enter_namespaces()
    set_hostname(f"cra-{spec.name}")
    try:
        network.bring_up("lo")
        network.add_bridge(BRIDGE, GATEWAY, POD_NETMASK)
    except OSError as error:
        raise NamespaceError(
            f"the kernel refuses a bridge ({error.strerror}); load its module with `modprobe bridge` as root"
        ) from error
    return asyncio.run(_serve(spec, sockets))


async def _serve(spec: ClusterSpec, sockets: Sockets) -> int:
    init = Init(spec)
    server = await asyncio.start_unix_server(init.answer, sock=sockets.control)
    await forward(sockets.api, "127.0.0.1", APISERVER_PORT)
    await forward(sockets.prometheus, "127.0.0.1", PROMETHEUS_PORT)
    if await init.boot():
        await asyncio.Event().wait()
    server.close()
    await init.last_words()
    return 1


class Init:
    """The cluster's life, from the first component to the last."""

    def __init__(self, spec: ClusterSpec) -> None:
        self._spec = spec
        self._layout = Layout(spec.root)
        self._began = time.monotonic()
        self._events: list[Mapping[str, Any]] = []
        self._news = asyncio.Event()
        self._conversations: set[asyncio.Task[None]] = set()
        self._supervisor = Supervisor(self._layout, self._component_changed)

    async def boot(self) -> bool:
        """Start everything and say how it went; whether all of it works."""
        try:
            await self._start()
        except Exception as error:
            # Whatever it is, the launcher has to hear of it; init's log shows where it came from.
            traceback.print_exception(error)
            self._tell(event="failed", message="\n".join(str(leaf) for leaf in _leaves(error)))
            return False
        self._tell(event="ready")
        return True

    async def _start(self) -> None:
        spec, layout, supervisor = self._spec, self._layout, self._supervisor
        tools = spec.tools
        api = Api(layout)
        supervisor.start(components.etcd(tools["etcd"], layout))
        supervisor.start(components.apiserver(tools["kube-apiserver"], layout))
        await supervisor.ready("etcd")
        await supervisor.ready("kube-apiserver")
        # Not earlier: before the default roles exist both are refused, and end or sit out their back-off.
        manager = components.controller_manager(tools["kube-controller-manager"], layout)
        supervisor.start(manager, lambda: _has_default_account(api))
        supervisor.start(components.scheduler(tools["kube-scheduler"], layout))
        await asyncio.to_thread(apply_base_objects, api)
        supervisor.start(components.prometheus(tools["prometheus"], layout))
        last = ["kube-controller-manager", "kube-scheduler", "prometheus"]
        if spec.nodes:
            supervisor.start(components.node_agent(layout), lambda: set(spec.nodes) <= _ready_nodes(api))
            last.append("node-agent")
        async with asyncio.TaskGroup() as group:
            for name in last:
                group.create_task(supervisor.ready(name))

    async def last_words(self) -> None:
        """Give those who wait for the cluster a moment to hear how it went."""
        if self._conversations:
            await asyncio.wait(self._conversations, timeout=_LISTENERS_GRACE)

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection to the control socket."""
        task = asyncio.current_task()
        assert task is not None
        self._conversations.add(task)
        try:
            with contextlib.suppress(ConnectionError):
                await self._answer(json.loads(await reader.readline()), writer)
                await writer.drain()
        finally:
            self._conversations.discard(task)
            writer.close()

    async def _answer(self, request: Mapping[str, Any], writer: asyncio.StreamWriter) -> None:
        match request["op"]:
            case "wait":
                await self._stream_events(writer)
            case "status":
                _send(writer, {"components": self._supervisor.status()})
            case "restart" if request["component"] == "node-agent":
                _send(writer, {"error": "node-agent cannot be restarted: its pods would be nobody's"})
            case "stop" | "restart" as op:
                act = self._supervisor.stop if op == "stop" else self._supervisor.restart
                try:
                    await act(request["component"])
                except KeyError:
                    names = ", ".join(self._supervisor.status())
                    _send(writer, {"error": f"no component {request['component']}; there are {names}"})
                except LocalClusterError as error:
                    _send(writer, {"error": str(error)})
                else:
                    _send(writer, {"ok": True})
            case op:
                _send(writer, {"error": f"no request {op}"})

    async def _stream_events(self, writer: asyncio.StreamWriter) -> None:
        sent = 0
        while True:
            news = self._news
            for event in self._events[sent:]:
                _send(writer, event)
                if event["event"] in ("ready", "failed"):
                    return
            sent = len(self._events)
            await news.wait()

    def _component_changed(self, name: str, state: State) -> None:
        self._tell(event="component", component=name, state=state)

    def _tell(self, **event: Any) -> None:
        event["seconds"] = round(time.monotonic() - self._began, 3)
        print(json.dumps(event), flush=True)
        self._events.append(event)
        self._news.set()
        self._news = asyncio.Event()


def _send(writer: asyncio.StreamWriter, answer: Mapping[str, Any]) -> None:
    writer.write(json.dumps(answer).encode() + b"\n")


def _has_default_account(api: Api) -> bool:
    """Whether the controllers run: pods can be made once the controller of service accounts has been by."""
    try:
        api.get("/api/v1/namespaces/default/serviceaccounts/default")
    except ApiError as error:
        if error.status == 404:
            return False
        raise
    return True


def _ready_nodes(api: Api) -> set[str]:
    def is_ready(node: Mapping[str, Any]) -> bool:
        conditions = node["status"].get("conditions", ())
        return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)

    nodes = api.get("/api/v1/nodes")["items"]
    return {node["metadata"]["name"] for node in nodes if is_ready(node)}


def _leaves(error: Exception) -> list[Exception]:
    """The errors in a group of groups, or the error itself."""
    if not isinstance(error, ExceptionGroup):
        return [error]
    return [leaf for inner in error.exceptions for leaf in _leaves(inner)]
