"""The pod network: one bridge, a pair of virtual devices per pod, and a namespace where all service addresses
live.

The launcher makes the bridge. Every pod hangs on it with an address from the pod range and a default route to
the bridge's own address, so pods, nodes and the API server reach each other directly.

Service addresses live in a namespace of their own, on the bridge like a pod: a *local* route makes each of
the whole range its own, so a proxy can listen on any. They could not live beside the API server: what listens
there on all addresses would be found at the same port of every service.
"""

import asyncio
import concurrent.futures
import contextlib
import dataclasses
import ipaddress
import os
import secrets
import socket
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pyroute2

from . import sandbox

# Its calls are made at run time, so no checker can see them.
_netlink_library: Any = pyroute2
_LOCAL_TABLE = 255


@dataclasses.dataclass(frozen=True, kw_only=True)
class PodNetwork:
    """The namespaces that a pod's containers share."""

    address: str
    device: str
    namespaces: Sequence[int]
    """Open descriptors of its network, UTS and IPC namespaces; they keep these alive."""


class Network:
    """Gives pods their network; one per cluster."""

    def __init__(self, *, bridge: str, gateway: str, pod_cidr: str, service_cidr: str) -> None:
        self._bridge, self._gateway, self._service_cidr = bridge, gateway, service_cidr
        self._range = ipaddress.ip_network(pod_cidr)
        self._used: set[str] = {gateway}
        self._next = self._addresses()
        self._devices = 0
        # The library's sockets belong to the thread that made them.
        self._netlink_thread = concurrent.futures.ThreadPoolExecutor(1, "netlink")
        # Sockets belong to the network namespace of the thread that made them.
        self._service_thread = concurrent.futures.ThreadPoolExecutor(1, "services")
        self._service_gateway = ""

    async def set_up(self, node_ips: Sequence[str]) -> None:
        """Prepares the bridge, gives it the nodes' addresses, makes the place of the service addresses."""
        self._used.update(node_ips)
        await self._in_thread(lambda: self._set_up_bridge(node_ips))
        services = await self.create("services")
        self._service_gateway = services.address
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._service_thread, self._set_up_services, services.namespaces[0])
        await self._in_thread(
            lambda: self._netlink.route("add", dst=self._service_cidr, gateway=services.address)
        )

    async def _in_thread(self, function: Callable[[], None]) -> None:
        await asyncio.get_running_loop().run_in_executor(self._netlink_thread, function)

    def _set_up_bridge(self, node_ips: Sequence[str]) -> None:
        self._netlink = netlink = _netlink_library.IPRoute()
        self._bridge_index = bridge = netlink.link_lookup(ifname=self._bridge)[0]
        # NB: left alone, a bridge takes the lowest address of its ports, and changes it as pods come and go,
        # which breaks the neighbour caches of the others.
        netlink.link("set", index=bridge, address="02:" + secrets.token_bytes(5).hex(":"))
        for address in node_ips:
            netlink.addr("add", index=bridge, address=address, prefixlen=32)

    def _set_up_services(self, namespace: int) -> None:
        sandbox.enter(namespace)
        with _netlink_library.IPRoute() as inside:
            loopback = inside.link_lookup(ifname="lo")[0]
            inside.route(
                "add", dst=self._service_cidr, oif=loopback, type="local", table=_LOCAL_TABLE, scope="host"
            )

    async def service_socket(self, address: str, port: int, kind: socket.SocketKind) -> socket.socket:
        """Gives a socket bound to a service's address and port.

        Raises:
            OSError: the address is outside the service range, or taken.
        """

        def bind() -> socket.socket:
            bound = socket.socket(socket.AF_INET, kind)
            try:
                bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                bound.bind((address, port))
            except OSError:
                bound.close()
                raise
            return bound

        return await asyncio.get_running_loop().run_in_executor(self._service_thread, bind)

    def _addresses(self) -> Iterator[str]:
        # Goes round the whole range before an address comes again, so that nobody's cache remembers it.
        while True:
            for address in self._range.hosts():
                if str(address) not in self._used:
                    yield str(address)

    async def create(self, hostname: str) -> PodNetwork:
        """Makes a pod's namespaces, with a device that is up and routed."""
        address = next(self._next)
        self._used.add(address)
        self._devices += 1
        device = f"pod{self._devices}"
        namespaces = await sandbox.in_new_thread(lambda: _make_namespaces(hostname))
        await self._in_thread(lambda: self._connect(device, namespaces[0]))
        await sandbox.in_new_thread(lambda: self._configure(namespaces[0], address))
        return PodNetwork(address=address, device=device, namespaces=namespaces)

    def _connect(self, device: str, namespace: int) -> None:
        peer = {"ifname": "eth0", "net_ns_fd": namespace}
        self._netlink.link("add", ifname=device, kind="veth", peer=peer)
        index = self._netlink.link_lookup(ifname=device)[0]
        self._netlink.link("set", index=index, master=self._bridge_index, state="up")

    def _configure(self, namespace: int, address: str) -> None:
        sandbox.enter(namespace)
        with _netlink_library.IPRoute() as inside:
            loopback, ethernet = (inside.link_lookup(ifname=name)[0] for name in ("lo", "eth0"))
            inside.link("set", index=loopback, state="up")
            inside.addr("add", index=ethernet, address=address, prefixlen=self._range.prefixlen)
            inside.link("set", index=ethernet, state="up")
            inside.route("add", dst="default", gateway=self._gateway)
            if self._service_gateway:
                inside.route("add", dst=self._service_cidr, gateway=self._service_gateway)

    async def remove(self, pod: PodNetwork) -> None:
        """Takes a pod's network down; its processes have ended."""
        for descriptor in pod.namespaces:
            os.close(descriptor)
        await self._in_thread(lambda: self._remove_device(pod.device))
        self._used.discard(pod.address)

    def _remove_device(self, device: str) -> None:
        # The device goes by itself with the namespace, but only some time later.
        with contextlib.suppress(_netlink_library.NetlinkError, IndexError):
            self._netlink.link("del", index=self._netlink.link_lookup(ifname=device)[0])


def _make_namespaces(hostname: str) -> Sequence[int]:
    # The thread moves into them and ends there; what stays is the descriptors.
    sandbox.unshare(sandbox.CLONE_NEWNET | sandbox.CLONE_NEWUTS | sandbox.CLONE_NEWIPC)
    socket.sethostname(hostname)
    return [os.open(f"/proc/thread-self/ns/{name}", os.O_RDONLY) for name in ("net", "uts", "ipc")]
