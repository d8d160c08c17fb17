"""A TCP proxy in user space on every service's cluster IP and ports, round robin over ready endpoints.

Cluster IPs over TCP only: no UDP, no node ports, no session affinity. How any service address can be listened
on is told in `network`.
"""

import asyncio
import contextlib
import functools
import itertools
import logging
import socket

from .api import Object
from .endpoints import Endpoints, Key
from .network import Network
from .watch import Watch

_log = logging.getLogger(__name__)
_CHUNK_BYTES = 64 * 1024
_Listener = tuple[str, int, str]
"""Address, port, and the port's name."""


class ServiceProxy:
    """Keeps one listener per service port."""

    def __init__(self, endpoints: Endpoints, network: Network) -> None:
        self._endpoints, self._network = endpoints, network
        self._servers: dict[Key, dict[_Listener, asyncio.Server]] = {}
        self._turn = itertools.count()
        self._changed: asyncio.Queue[tuple[Key, Object | None]] = asyncio.Queue()

    def follow(self, services: Watch) -> None:
        """Takes part in the watch of services."""
        services.on_change(self._on_service)

    def _on_service(self, service: Object, exists: bool) -> None:
        key = (service["metadata"]["namespace"], service["metadata"]["name"])
        self._changed.put_nowait((key, service if exists else None))

    async def run(self) -> None:
        """Opens and closes listeners until cancelled."""
        while True:
            key, service = await self._changed.get()
            wanted = _listeners(service) if service else set()
            servers = self._servers.setdefault(key, {})
            for listener in set(servers) - wanted:
                servers.pop(listener).close()
            for listener in wanted - set(servers):
                address, port, name = listener
                try:
                    serve = functools.partial(self._serve, key, name)
                    bound = await self._network.service_socket(address, port, socket.SOCK_STREAM)
                    servers[listener] = await asyncio.start_server(serve, sock=bound)
                except OSError as error:
                    _log.warning("service %s/%s, port %d: %s", *key, port, error)

    async def _serve(
        self, key: Key, port_name: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        candidates = [e for e in self._endpoints.behind(key) if port_name in e.ports]
        turn = next(self._turn)
        try:
            # An endpoint that refuses has ended a moment ago: its neighbour may live.
            for attempt in range(len(candidates)):
                endpoint = candidates[(turn + attempt) % len(candidates)]
                try:
                    up_reader, up_writer = await asyncio.open_connection(
                        endpoint.address, endpoint.ports[port_name]
                    )
                except OSError:
                    continue
                await asyncio.gather(_pump(reader, up_writer), _pump(up_reader, writer))
                return
            # No endpoint: the client sees its connection reset.
            writer.transport.abort()
        finally:
            writer.close()


def _listeners(service: Object) -> set[_Listener]:
    address = service["spec"].get("clusterIP")
    if address in (None, "", "None"):
        return set()
    ports = service["spec"].get("ports", [])
    return {(address, p["port"], p.get("name", "")) for p in ports if p.get("protocol", "TCP") == "TCP"}


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    """Copies one direction; its end is passed on, the other direction may live on."""
    try:
        while data := await source.read(_CHUNK_BYTES):
            sink.write(data)
            await sink.drain()
        sink.write_eof()
    except (ConnectionError, OSError):
        with contextlib.suppress(OSError):
            sink.transport.abort()
