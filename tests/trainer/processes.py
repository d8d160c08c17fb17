"""Real ranks for tests: processes that train together over gloo, each with what the cluster would give it.

Importing torch takes seconds, so ranks are forked from a server that has imported it once. Apart from that
they are what a pod runs: the launcher's environment, the guard around the script, the exit code, and the
termination message in a file.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import socket
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

_context = multiprocessing.get_context("forkserver")
# NB: torch imports its compiler when the first optimizer is made, which takes longer than torch itself.
_context.set_forkserver_preload(
    ["torch._dynamo", "cra_trainer.session", "cra_trainer.shards", "cra_trainer.script", "sklearn.datasets"]
)


def stop_server() -> None:
    """End the server that ranks are forked from and wait for it."""
    forkserver._forkserver._stop()  # type: ignore[attr-defined]


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a rank ended: exit code (negative for a signal), last message, and what the target recorded."""

    code: int
    message: dict[str, Any]
    record: dict[str, Any]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def run_ranks(
    target: Callable[..., Any],
    *args: Any,
    world_size: int,
    directory: Path,
    config: Mapping[str, Any] | None = None,
    checkpoints: Path | None = None,
    timeout: float = 60,
) -> list[Ended]:
    """Run `target(record, *args)` as a job of `world_size` ranks and wait for all of them.

    Whatever a target has put into its record when it ends, in whichever way but SIGKILL, is in the result.
    `directory` is for the ranks' files.
    """
    directory.mkdir(parents=True, exist_ok=True)
    port = free_port()
    children = []
    for rank in range(world_size):
        environ = {
            "RANK": str(rank),
            "WORLD_SIZE": str(world_size),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "CRA_CONFIG": json.dumps(config or {}),
            "CRA_TERMINATION_LOG": str(directory / f"message-{rank}"),
            "CRA_CHECKPOINT_DIR": str(checkpoints or ""),
        }
        child = _context.Process(target=_rank, args=(environ, directory / f"record-{rank}", target, args))
        child.start()
        children.append(child)
    try:
        for child in children:
            child.join(timeout)
            assert child.exitcode is not None, f"a rank is still running after {timeout} seconds"
    finally:
        for child in children:
            if child.is_alive():
                child.kill()
                child.join()
    return [
        Ended(
            code=child.exitcode or 0,
            message=_read(directory / f"message-{rank}", json.loads, {}),
            record=_read(directory / f"record-{rank}", pickle.loads, {}),
        )
        for rank, child in enumerate(children)
    ]


class Training:
    """A training whose ranks come and go, as the operator's pods would.

    Args:
        target: What every rank runs, as for `run_ranks`.
        args: Its arguments.
        directory: For the ranks' files.
        config: The job's.
    """

    def __init__(
        self, target: Callable[..., Any], *args: Any, directory: Path, config: Mapping[str, Any]
    ) -> None:
        self._target, self._args, self._directory, self._config = target, args, directory, config
        self._port = free_port()
        self._cohorts = 0
        self._children: list[Any] = []

    def __enter__(self) -> Training:
        return self

    def __exit__(self, *_: object) -> None:
        for child in self._children:
            if child.is_alive():
                child.kill()
                child.join()

    def start(self, *places: int, size: int, joining: int | None = None) -> list[Any]:
        """Start a cohort in these places, of a training that will then have `size` ranks."""
        self._cohorts += 1
        started = []
        for place in places:
            name = f"{self._cohorts}-{place}"
            environ = {
                "RANK": str(place),
                "WORLD_SIZE": str(size),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(self._port),
                "CRA_GENERATION": str(self._cohorts),
                "CRA_JOINING": str(joining or len(places)),
                "CRA_POD": name,
                "CRA_CONFIG": json.dumps(self._config),
                "CRA_TERMINATION_LOG": str(self._directory / f"message-{name}"),
            }
            record = self._directory / f"record-{name}"
            child = _context.Process(target=_rank, args=(environ, record, self._target, self._args))
            child.start()
            started.append(child)
        self._children += started
        return started

    def message(self, name: str) -> dict[str, Any]:
        """The last words of the rank that started as cohort-place."""
        told: dict[str, Any] = _read(self._directory / f"message-{name}", json.loads, {})
        return told

    def record(self, name: str) -> dict[str, Any]:
        """What its target recorded."""
        recorded: dict[str, Any] = _read(self._directory / f"record-{name}", pickle.loads, {})
        return recorded


def _read(path: Path, parse: Callable[[bytes], Any], default: Any) -> Any:
    return parse(path.read_bytes()) if path.exists() else default


def _rank(environ: dict[str, str], path: Path, target: Callable[..., Any], args: tuple[Any, ...]) -> None:
    os.environ.update(environ)
    from cra_trainer import script

    def run() -> None:
        record: dict[str, Any] = {}
        try:
            target(record, *args)
        finally:
            path.write_bytes(pickle.dumps(record))

    sys.exit(script.guard(run))
