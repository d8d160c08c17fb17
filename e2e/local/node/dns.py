"""Cluster DNS: A records of services and of the pods behind headless ones.

Names of `cluster.local` only: any other name does not exist, and is answered so at once, as the search list
of `resolv.conf` makes every look-up of a short name ask for several that do not. There are no SRV or PTR
records, no ExternalName services and no upstream servers.
"""

import asyncio
import logging
import socket
import struct
from typing import Any

import dnslib

from .endpoints import Endpoints
from .network import Network

_log = logging.getLogger(__name__)
# It has no types.
_dns: Any = dnslib
_PORT = 53
_PLAIN_UDP_BYTES = 512
# Records change with every pod, so nobody may keep one for longer than a moment.
_TTL_SECONDS = 1


def lookup(name: str, domain: str, endpoints: Endpoints) -> list[str] | None:
    """The addresses of a name.

    Args:
        name: fully qualified, without the final dot.
        domain: the cluster's.
        endpoints: what is known.

    Returns:
        None when the name does not exist; an empty list when it does without having an address.
    """
    stem = name.lower().removesuffix(f".svc.{domain}")
    parts = stem.split(".")
    if stem == name.lower() or len(parts) not in (2, 3):
        return None
    *host, service_name, namespace = parts
    service = endpoints.services.get((namespace, service_name))
    if service is None:
        return None
    behind = list(endpoints.behind((namespace, service_name)))
    if host:
        return [endpoint.address for endpoint in behind if endpoint.hostname == host[0]] or None
    if service["spec"].get("clusterIP") in (None, "", "None"):
        return [endpoint.address for endpoint in behind]
    return [service["spec"]["clusterIP"]]


def answer(packet: bytes, domain: str, endpoints: Endpoints, *, udp: bool) -> bytes:
    """The reply to a query, both in wire format; over UDP cut to what the client takes.

    Raises:
        DNSError: it is not a query.
    """
    query = _dns.DNSRecord.parse(packet)
    reply = query.reply(ra=0, aa=1)
    addresses = lookup(str(query.q.qname).rstrip("."), domain, endpoints)
    if addresses is None:
        reply.header.rcode = _dns.RCODE.NXDOMAIN
    elif query.q.qtype in (_dns.QTYPE.A, _dns.QTYPE.ANY):
        for address in addresses:
            rdata = _dns.A(address)
            reply.add_answer(_dns.RR(query.q.qname, _dns.QTYPE.A, rdata=rdata, ttl=_TTL_SECONDS))
    packed: bytes = reply.pack()
    if udp:
        room = max([rr.edns_len for rr in query.ar if rr.rtype == _dns.QTYPE.OPT], default=_PLAIN_UDP_BYTES)
        if len(packed) > room:
            packed = reply.truncate().pack()
    return packed


class DnsServer(asyncio.DatagramProtocol):
    """Answers over UDP and TCP."""

    def __init__(self, domain: str, endpoints: Endpoints) -> None:
        self._domain, self._endpoints = domain, endpoints
        self._transport: asyncio.DatagramTransport | None = None

    async def start(self, network: Network, address: str) -> None:
        """Listens on the service address `address`."""
        udp = await network.service_socket(address, _PORT, socket.SOCK_DGRAM)
        await asyncio.get_running_loop().create_datagram_endpoint(lambda: self, sock=udp)
        tcp = await network.service_socket(address, _PORT, socket.SOCK_STREAM)
        await asyncio.start_server(self._serve, sock=tcp)

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]
        self._transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        assert self._transport is not None
        try:
            reply = answer(data, self._domain, self._endpoints, udp=True)
        except dnslib.DNSError as error:
            _log.info("query from %s: %s", addr, error)
            return
        self._transport.sendto(reply, addr)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                (length,) = struct.unpack("!H", await reader.readexactly(2))
                query = await reader.readexactly(length)
                reply = answer(query, self._domain, self._endpoints, udp=False)
                writer.write(struct.pack("!H", len(reply)) + reply)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError, dnslib.DNSError):
            pass
        finally:
            writer.close()
