"""Container logs: what a container writes, line by line with the time, kept in a file, followed by readers.

The format on disk is that of container runtimes (`<time> stdout F <line>`), which `kubectl logs --timestamps`
and `--since` need. Logs are not rotated. Standard output and error share one stream.
"""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

from .clock import now_precise

_CHUNK_BYTES = 16 * 1024
_FULL, _PARTIAL = b" stdout F ", b" stdout P "


class ContainerLog(asyncio.Protocol):
    """The log of one run of a container: the reading end of its output pipe."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.closed = False
        self.grown = asyncio.Event()
        """Set, and replaced by a fresh one, whenever the file grows or is closed."""
        self.complete = asyncio.Event()
        """Set once nothing can be written any more."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("ab", buffering=0)
        self._rest = b""

    async def open(self) -> int:
        """Starts reading; gives the descriptor that the container writes to, which the caller closes."""
        read, write = os.pipe()
        loop = asyncio.get_running_loop()
        await loop.connect_read_pipe(lambda: self, os.fdopen(read, "rb", buffering=0))
        return write

    def data_received(self, data: bytes) -> None:
        stamp = now_precise().encode()
        *lines, self._rest = (self._rest + data).split(b"\n")
        records = [stamp + _FULL + line + b"\n" for line in lines]
        while len(self._rest) >= _CHUNK_BYTES:
            records.append(stamp + _PARTIAL + self._rest[:_CHUNK_BYTES] + b"\n")
            self._rest = self._rest[_CHUNK_BYTES:]
        self._append(b"".join(records))

    def connection_lost(self, exc: Exception | None) -> None:
        if self._rest:
            self._append(now_precise().encode() + _PARTIAL + self._rest + b"\n")
        self._file.close()
        self.closed = True
        self._wake()
        self.complete.set()

    def _append(self, records: bytes) -> None:
        if records:
            self._file.write(records)
            self._wake()

    def _wake(self) -> None:
        self.grown.set()
        self.grown = asyncio.Event()

    async def follow(self) -> AsyncIterator[bytes]:
        """Gives all records, those to come included, until the log is closed."""
        with self.path.open("rb") as file:
            rest = b""
            while True:
                grown, closed = self.grown, self.closed
                *records, rest = (rest + file.read()).split(b"\n")
                for record in records:
                    yield record
                if closed:
                    return
                await grown.wait()


def tail(records: list[bytes], lines: int) -> list[bytes]:
    """The records of the last `lines` lines; a line may have several."""
    start = len(records)
    while start > 0:
        if _FULL in records[start - 1][:64] and (lines := lines - 1) < 0:
            break
        start -= 1
    return records[start:]


def render(record: bytes, *, timestamps: bool) -> bytes:
    """A record as the user sees it, with its line end."""
    stamp, _, tag, text = record.split(b" ", 3)
    end = b"\n" if tag == b"F" else b""
    return (stamp + b" " if timestamps else b"") + text + end
