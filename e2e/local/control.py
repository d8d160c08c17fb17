"""The control socket of init: one request per connection, JSON lines both ways.

========= ======================= =====================================================
request   fields                  answer
========= ======================= =====================================================
wait                              every event so far and to come, up to `ready` or `failed`
status                            state of each component
stop      component               `ok` once it is dead
restart   component               `ok` once it works again
========= ======================= =====================================================

An answer that holds `error` says why a request failed.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from e2e.local.errors import LocalClusterError, NoSuchClusterError


def listen(path: Path) -> socket.socket:
    """A listening control socket at `path`."""
    with _short(path) as short:
        control = socket.socket(socket.AF_UNIX)
        control.bind(short.name)
    path.chmod(0o600)
    control.listen()
    return control


def stream(path: Path, request: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Send a request and yield each line of the answer.

    Raises:
        NoSuchClusterError: Nothing listens at `path`.
        LocalClusterError: The request failed; the message is init's.
    """
    with socket.socket(socket.AF_UNIX) as control:
        try:
            with _short(path) as short:
                control.connect(short.name)
        except OSError as error:
            raise NoSuchClusterError(f"nothing runs behind {path} ({error.strerror})") from error
        control.sendall(json.dumps(request).encode() + b"\n")
        try:
            with control.makefile() as lines:
                for line in lines:
                    answer = json.loads(line)
                    if "error" in answer:
                        raise LocalClusterError(answer["error"])
                    yield answer
        except ConnectionError as error:
            raise NoSuchClusterError(f"the cluster behind {path} ended while it was asked") from error


def request(path: Path, op: str, **fields: Any) -> Mapping[str, Any]:
    """Send a request and return its single answer.

    Raises:
        NoSuchClusterError: Nothing listens at `path`, or it ended before it answered.
        LocalClusterError: The request failed; the message is init's.
    """
    for answer in stream(path, {"op": op, **fields}):
        return answer
    raise NoSuchClusterError(f"the cluster behind {path} ended while it was asked")


class _short:  # noqa: N801 - reads as the function that it is
    """A name for `path` that fits into the 108 bytes of a socket address, however deep the directory is."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> _short:
        self._directory = os.open(self._path.parent, os.O_PATH | os.O_DIRECTORY)
        self.name = f"/proc/self/fd/{self._directory}/{self._path.name}"
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._directory)
