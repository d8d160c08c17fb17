"""The pod network: one bridge, a pair of virtual devices per pod, service addresses that all are local.

The launcher makes the bridge. Every pod hangs on it with an address from the pod range and a default route to
the bridge's own address, so pods, nodes and the API server reach each other directly. A *local* route for the
whole service range makes each service address one of this host's, so a proxy can listen on any of them.
"""

import asyncio
import contextlib
import dataclasses
import ipaddress
import os
import secrets
import socket
import threading
from collections.abc import Iterator, Sequence
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
        # Netlink conversations must not interleave; they block for a millisecond or two each.
        self._lock = threading.Lock()
        self._netlink = _netlink_library.IPRoute()
        self._bridge_index: int = self._netlink.link_lookup(ifname=bridge)[0]

    def set_up(self, node_ips: Sequence[str]) -> None:
        """Prepares the bridge and makes the nodes' and services' addresses local. Blocks."""
        netlink, bridge = self._netlink, self._bridge_index
        loopback = netlink.link_lookup(ifname="lo")[0]
        # NB: left alone, a bridge takes the lowest address of its ports, and changes it as pods come and go,
        # which breaks the neighbour caches of the others.
        netlink.link("set", index=bridge, address="02:" + secrets.token_bytes(5).hex(":"))
        # NB: a bridge without ports has no carrier and drops the packets of its first port for a second.
        netlink.link("add", ifname="cra-carrier", kind="veth", peer={"ifname": "cra-carrier-peer"})
        for name in ("cra-carrier", "cra-carrier-peer"):
            netlink.link("set", index=netlink.link_lookup(ifname=name)[0], state="up")
        netlink.link("set", index=netlink.link_lookup(ifname="cra-carrier")[0], master=bridge)
        for address in node_ips:
            self._used.add(address)
            netlink.addr("add", index=bridge, address=address, prefixlen=32)
        netlink.route(
            "add", dst=self._service_cidr, oif=loopback, type="local", table=_LOCAL_TABLE, scope="host"
        )

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
        namespaces = await sandbox.in_new_thread(lambda: self._create(hostname, address, device))
        return PodNetwork(address=address, device=device, namespaces=namespaces)

    def _create(self, hostname: str, address: str, device: str) -> Sequence[int]:
        # This thread moves into the pod's namespaces and never comes back.
        sandbox.unshare(sandbox.CLONE_NEWNET | sandbox.CLONE_NEWUTS | sandbox.CLONE_NEWIPC)
        socket.sethostname(hostname)
        namespaces = [os.open(f"/proc/thread-self/ns/{name}", os.O_RDONLY) for name in ("net", "uts", "ipc")]
        with self._lock:
            peer = {"ifname": "eth0", "net_ns_fd": namespaces[0]}
            self._netlink.link("add", ifname=device, kind="veth", peer=peer)
            index = self._netlink.link_lookup(ifname=device)[0]
            self._netlink.link("set", index=index, master=self._bridge_index, state="up")
        with _netlink_library.IPRoute() as inside:
            loopback, ethernet = (inside.link_lookup(ifname=name)[0] for name in ("lo", "eth0"))
            inside.link("set", index=loopback, state="up")
            inside.addr("add", index=ethernet, address=address, prefixlen=self._range.prefixlen)
            inside.link("set", index=ethernet, state="up")
            inside.route("add", dst="default", gateway=self._gateway)
        return namespaces

    async def remove(self, pod: PodNetwork) -> None:
        """Takes a pod's network down; its processes have ended."""
        for descriptor in pod.namespaces:
            os.close(descriptor)
        await asyncio.to_thread(self._remove_device, pod.device)
        self._used.discard(pod.address)

    def _remove_device(self, device: str) -> None:
        # The device goes by itself with the namespace, but only some time later.
        with self._lock, contextlib.suppress(_netlink_library.NetlinkError, IndexError):
            self._netlink.link("del", index=self._netlink.link_lookup(ifname=device)[0])
