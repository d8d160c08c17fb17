"""Checkpoints that are whole or not there.

A checkpoint is a directory ``step-000000001234.000`` with the state (``state.pt``) and a manifest that holds
its size and SHA-256. It is written under another name, synced to disk and renamed, so a crash at any instant
leaves the last one untouched. On load the newest one that matches its manifest is taken; those that do not
are passed over and named.

The state is what torch's restricted unpickler reads (tensors and plain values): loading a file somebody else
wrote runs no code of theirs. Saving copies the tensors and returns; a thread does the writing, and a write
that fails is reported and costs nothing but that checkpoint.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import itertools
import json
import logging
import os
import shutil
import threading
import time
from collections import Counter, OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

import torch

log = logging.getLogger("cra_trainer")

State = dict[str, Any]
_STATE, _MANIFEST = "state.pt", "manifest.json"
_GOOD, _PARTIAL, _REJECTED = "step-", ".partial-", "rejected-"


class StateError(TypeError):
    """A part of the state is neither a tensor nor a plain value, so it could not be loaded again."""


@dataclass(frozen=True, kw_only=True)
class Saved:
    """A checkpoint on disk."""

    step: int
    path: Path
    time: float


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """What `Checkpoints.load` found: the newest good state, if any, and why newer ones were passed over."""

    saved: Saved | None
    payload: bytes | None
    rejected: tuple[str, ...]


def snapshot(value: Any, path: str = "state") -> Any:
    """A copy of a state in host memory that training does not change any more.

    Raises:
        StateError: Something in it could not be loaded again; the text says where and what.
    """
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if value is None or type(value) in (bool, int, float, str, bytes):
        return value
    if type(value) in (dict, OrderedDict, Counter):
        return type(value)((key, snapshot(item, f"{path}[{key!r}]")) for key, item in value.items())
    if type(value) in (list, tuple):
        return type(value)(snapshot(item, f"{path}[{i}]") for i, item in enumerate(value))
    raise StateError(
        f"{path}: expected tensors, numbers, texts, lists, tuples or dicts, got {type(value).__name__}"
    )


def parse(payload: bytes) -> State:
    """The state in a checkpoint's bytes."""
    state = torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
    assert isinstance(state, dict)
    return state


class Checkpoints:
    """The checkpoints of one job in one directory; used by rank 0 alone.

    Attributes:
        newest: The newest one that was written or loaded.
        failures: How many could not be written.
        failure: Why the last one could not be written, until one succeeds.
    """

    def __init__(self, directory: Path, *, keep: int) -> None:
        self._directory, self._keep = directory, keep
        self._writer: threading.Thread | None = None
        self.newest: Saved | None = None
        self.failures = 0
        self.failure: str | None = None

    @property
    def busy(self) -> bool:
        """Whether one is being written."""
        return self._writer is not None and self._writer.is_alive()

    def save(self, state: State, step: int) -> None:
        """Write a snapshot in the background; waits for the one before."""
        self.wait()
        self._writer = threading.Thread(target=self._save, args=(state, step), name="cra-checkpoint")
        self._writer.start()

    def wait(self) -> None:
        """Wait until nothing is being written."""
        if self._writer is not None:
            self._writer.join()

    def _save(self, state: State, step: int) -> None:
        try:
            self.newest = self._write(state, step)
            self.failure = None
            self._prune()
        # The serializer reports a full disk as a RuntimeError of its own.
        except (OSError, RuntimeError) as error:
            self.failures += 1
            self.failure = f"checkpoint of step {step} in {self._directory}: {error}"
            log.error("%s; training goes on, the checkpoint before it stays", self.failure)

    def _write(self, state: State, step: int) -> Saved:
        self._directory.mkdir(parents=True, exist_ok=True)
        partial = self._directory / f"{_PARTIAL}{step:012d}"
        final = self._unused(step)
        shutil.rmtree(partial, ignore_errors=True)
        try:
            partial.mkdir()
            with (partial / _STATE).open("wb") as file:
                hashing = _HashingFile(file)
                torch.save(state, cast(IO[bytes], hashing))
                _sync(file)
            now = time.time()
            manifest = {
                "format": 1,
                "step": step,
                "time": now,
                "size": hashing.size,
                "sha256": hashing.digest(),
            }
            with (partial / _MANIFEST).open("wb") as file:
                file.write(json.dumps(manifest).encode())
                _sync(file)
            _sync_directory(partial)
            partial.rename(final)
            _sync_directory(self._directory)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        return Saved(step=step, path=final, time=now)

    def _unused(self, step: int) -> Path:
        """A name that sorts after every other of this step: a finished training saves its last step once
        more.
        """
        names = {path.name for path in self._all()}
        return next(
            self._directory / name
            for name in (f"{_GOOD}{step:012d}.{n:03d}" for n in itertools.count())
            if name not in names
        )

    def _prune(self) -> None:
        """Keep the newest; what was rejected or left half-written goes as soon as a good one is there."""
        leftovers = [p for p in self._directory.iterdir() if p.name.startswith((_PARTIAL, _REJECTED))]
        for old in [*self._all()[self._keep :], *leftovers]:
            with contextlib.suppress(OSError):
                shutil.rmtree(old)

    def _all(self) -> list[Path]:
        """Directories of checkpoints, newest first."""
        if not self._directory.is_dir():
            return []
        return sorted((p for p in self._directory.iterdir() if p.name.startswith(_GOOD)), reverse=True)

    def load(self) -> Loaded:
        """The newest checkpoint that is whole, and what was wrong with newer ones."""
        rejected: list[str] = []
        for path in self._all():
            try:
                saved, payload = _read(path)
                parse(payload)
            except Exception as error:  # Whatever is wrong with this one, an older one may be good.
                rejected.append(f"{path.name}: {error}")
                log.warning("checkpoint passed over: %s", rejected[-1])
                # Out of the way, or it would count as one of the newest that are kept.
                with contextlib.suppress(OSError):
                    path.rename(path.with_name(f"{_REJECTED}{path.name}"))
                continue
            self.newest = saved
            return Loaded(saved=saved, payload=payload, rejected=tuple(rejected))
        return Loaded(saved=None, payload=None, rejected=tuple(rejected))


def _read(path: Path) -> tuple[Saved, bytes]:
    """A checkpoint's state as bytes that match its manifest."""
    manifest = json.loads((path / _MANIFEST).read_bytes())
    payload = (path / _STATE).read_bytes()
    if len(payload) != manifest["size"]:
        raise ValueError(f"{_STATE} has {len(payload)} bytes, the manifest says {manifest['size']}")
    if hashlib.sha256(payload).hexdigest() != manifest["sha256"]:
        raise ValueError(f"{_STATE} does not match the SHA-256 of the manifest")
    return Saved(step=int(manifest["step"]), path=path, time=float(manifest["time"])), payload


class _HashingFile(io.RawIOBase):
    """Counts and hashes what is written through it, so that the manifest speaks of what was meant, not of
    what landed.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._hash = file, hashlib.sha256()
        self.size = 0

    def write(self, data: Any) -> int:
        self._hash.update(data)
        written = self._file.write(data)
        self.size += written
        return written

    def digest(self) -> str:
        return self._hash.hexdigest()


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
