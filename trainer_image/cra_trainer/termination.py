"""How a process of a job ends, and what it says last.

The exit code tells the operator what to do, the termination message (JSON of at most 4096 bytes, read by the
kubelet from `Env.termination_log`) tells the user why:

- 0, ``succeeded``: the script came to its end.
- 143, ``left``: asked to go by SIGTERM, all ranks stopped after the same step and rank 0 saved a checkpoint.
- 75, ``peer-lost``: a collective failed because another rank is gone; nothing is wrong here.
- else ``failed``: the script raised; `error` says what and where in the user's own code.
"""

from __future__ import annotations

import contextlib
import json
import re
import sys
import sysconfig
import traceback
from collections.abc import Mapping
from math import isfinite
from pathlib import Path
from types import TracebackType
from typing import Any

SUCCEEDED, FAILED, PEER_LOST, LEFT = 0, 1, 75, 143
LIMIT = 4096

# gloo reports a lost connection as a plain RuntimeError. Its other errors, such as ranks that disagree about
# the size of a collective, are mistakes of the script and must not look like a lost peer.
_GLOO_LOST = re.compile(
    r"gloo.*(closed by peer|reset by peer|broken pipe|timed out|connection refused|not connected|socket)",
    re.I | re.S,
)


def is_peer_loss(error: BaseException) -> bool:
    """Whether a collective failed because another rank is gone."""
    distributed = sys.modules.get("torch.distributed")
    if distributed is None:
        return False
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, distributed.DistError):
            return True
        if isinstance(cause, RuntimeError) and _GLOO_LOST.search(str(cause)):
            return True
        cause = cause.__cause__
    return False


def exit_code(error: BaseException) -> int:
    """The exit code that an exception which ends the script stands for."""
    if isinstance(error, SystemExit):
        if error.code is None:
            return SUCCEEDED
        return error.code if isinstance(error.code, int) else FAILED
    return PEER_LOST if is_peer_loss(error) else FAILED


def where(trace: TracebackType | None) -> str:
    """``file.py:12 in fn``: the innermost frame of the user's own code, else the innermost of all."""
    frames = traceback.extract_tb(trace)
    if not frames:
        return ""
    own = [frame for frame in frames if _is_users(frame.filename)]
    frame = (own or [frame for frame in frames if not frame.filename.startswith("<")] or list(frames))[-1]
    path = Path(frame.filename)
    if path.is_relative_to(Path.cwd()):
        path = path.relative_to(Path.cwd())
    return f"{path}:{frame.lineno} in {frame.name}"


def _is_users(filename: str) -> bool:
    if filename.startswith("<"):
        return False
    here = Path(__file__).parent
    path = Path(filename)
    if path.is_relative_to(here):
        return path.is_relative_to(here / "workloads")
    libraries = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    return not any(path.is_relative_to(library) for library in libraries)


def error_message(error: BaseException, *, rank: int) -> dict[str, Any]:
    """The message of a process that an exception ended."""
    lost = is_peer_loss(error)
    text = f"exit code {error.code}" if isinstance(error, SystemExit) else str(error)
    return {
        "outcome": "peer-lost" if lost else "failed",
        "error": {
            "type": "PeerLost" if lost else type(error).__name__,
            "message": text,
            "where": where(error.__traceback__),
            "rank": rank,
        },
    }


def write(path: Path | None, message: Mapping[str, Any]) -> None:
    """Write the termination message where the kubelet reads it, if there is such a place."""
    if path is None:
        return
    # The message explains an end that happens anyway; failing to write it must not become the reason.
    with contextlib.suppress(OSError):
        path.write_bytes(encode(message))


def encode(message: Mapping[str, Any]) -> bytes:
    """The message as JSON of at most `LIMIT` bytes: an error's texts are cut, classes and then ranks dropped
    from the end.
    """
    text = _dump(message)
    if len(text) > LIMIT and "error" in message:
        message = _shorten(message, 1000)
        text = _dump(message)
    for name in ("classes", "ranks"):
        rows = list(message.get(name, ()))
        while len(text) > LIMIT and rows:
            rows = rows[: len(rows) - max(1, len(rows) // 16)]
            message = {**message, name: rows}
            text = _dump(message)
    if len(text) > LIMIT:
        message = {name: value for name, value in message.items() if name != "metrics"}
        text = _dump(message)
    size = 1000
    while len(text) > LIMIT and "error" in message:
        size //= 2
        text = _dump(_shorten(message, size))
    return text


def _shorten(message: Mapping[str, Any], size: int) -> dict[str, Any]:
    """The message with its error's texts cut to their ends, where the reason is."""
    error = {
        name: ("…" + value[-size:] if isinstance(value, str) and len(value) > size else value)
        for name, value in message["error"].items()
    }
    return {**message, "error": error}


def _dump(message: Mapping[str, Any]) -> bytes:
    return json.dumps(_finite(message), separators=(",", ":"), ensure_ascii=False).encode()


def _finite(value: Any) -> Any:
    """JSON has neither NaN nor infinity: such numbers are left out."""
    if isinstance(value, Mapping):
        items = {str(key): _finite(item) for key, item in value.items()}
        return {
            key: item for key, item in items.items() if not (isinstance(item, float) and not isfinite(item))
        }
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
