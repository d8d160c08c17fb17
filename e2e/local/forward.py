"""The way in: sockets that listen on the host, spliced to servers inside the cluster's network namespace.

A socket belongs to the network namespace in which it was made, whoever holds it. The launcher makes the
listening ones, init inherits them and opens the other end inside. TLS passes through untouched.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket

_CHUNK = 1 << 16


async def forward(listener: socket.socket, host: str, port: int) -> asyncio.Server:
    """Serve a listening socket by connecting each of its clients to `host`:`port`.

    A client that comes while the server is down is disconnected at once, as it would be without a forwarder.
    """

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            inner_reader, inner_writer = await asyncio.open_connection(host, port)
        except OSError:
            writer.transport.abort()
            return
        try:
            await asyncio.gather(_copy(reader, inner_writer), _copy(inner_reader, writer))
        finally:
            # NB: abort, not close: closing waits until the peer has taken what is buffered.
            writer.transport.abort()
            inner_writer.transport.abort()

    return await asyncio.start_server(serve, sock=listener)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while chunk := await reader.read(_CHUNK):
            writer.write(chunk)
            await writer.drain()
        writer.write_eof()
