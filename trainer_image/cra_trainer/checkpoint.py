"""Checkpoints that are whole or not there, in a directory or under any URL that fsspec knows.

A checkpoint is a directory ``step-000000001234.000`` with the state (``state.pt``) and a manifest that holds
its size and SHA-256. Object stores cannot rename, so the order of writing is what makes it whole: first the
state, then the manifest, in one piece. Without a manifest there is no checkpoint; a crash at any instant
leaves the last one untouched. On load the newest one that matches its manifest is taken; those that do not
are passed over and named.

The state is what torch's restricted unpickler reads (tensors and plain values): loading a file somebody else
wrote runs no code of theirs. Saving takes a snapshot and returns; a thread does the writing, and a write that
fails is reported and costs nothing but that checkpoint.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import logging
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import torch

from cra_trainer.storage import Storage, UnreadError

log = logging.getLogger("cra_trainer")

State = dict[str, Any]
_STATE, _MANIFEST, _GOOD = "state.pt", "manifest.json", "step-"
_CHUNK = 1 << 20


class StateError(TypeError):
    """A part of the state is neither a tensor nor a plain value, so it could not be loaded again."""


@dataclass(frozen=True, kw_only=True)
class Saved:
    """A checkpoint that is whole; `path` is a path or a URL."""

    step: int
    path: str
    time: float


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """What `Checkpoints.load` found: the newest good state, if any, and why newer ones were passed over."""

    saved: Saved | None
    payload: bytes | None
    rejected: tuple[str, ...]


def snapshot(value: Any, path: str = "state", *, spare: Any = None) -> Any:
    """A copy of a state in host memory that training does not change any more.

    Args:
        value: The state.
        path: Where it stands in the whole, for errors.
        spare: An earlier snapshot that nobody needs any more: tensors of the same shape are copied into its
            memory. New memory costs three times the copy itself, for the kernel clears each page first.

    Raises:
        StateError: Something in it could not be loaded again; the text says where and what.
    """
    if isinstance(value, torch.Tensor):
        value = whole(value.detach())
        return spare.copy_(value) if _fits(spare, value) else value.to("cpu", copy=True)
    if value is None or type(value) in (bool, int, float, str, bytes):
        return value
    if type(value) in (dict, OrderedDict, Counter):
        spares = spare if isinstance(spare, dict) else {}
        return type(value)(
            (key, snapshot(item, f"{path}[{key!r}]", spare=spares.get(key))) for key, item in value.items()
        )
    if type(value) in (list, tuple):
        row = spare if isinstance(spare, list | tuple) else ()
        pairs = itertools.zip_longest(value, row[: len(value)])
        return type(value)(
            snapshot(item, f"{path}[{i}]", spare=other) for i, (item, other) in enumerate(pairs)
        )
    raise StateError(
        f"{path}: expected tensors, numbers, texts, lists, tuples or dicts, got {type(value).__name__}"
    )


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor, gathered where ranks hold a part each; then all of them call it."""
    # NB: not by its type, which takes a while to import.
    gathered = getattr(tensor, "full_tensor", None)
    return tensor if gathered is None else cast(torch.Tensor, gathered())


def _fits(spare: Any, value: torch.Tensor) -> bool:
    return (
        type(spare) is type(value) is torch.Tensor
        and spare.shape == value.shape
        and spare.dtype == value.dtype
        and spare.layout == value.layout == torch.strided
        and not spare.is_quantized
    )


def parse(payload: bytes) -> State:
    """The state in a checkpoint's bytes."""
    state = torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
    assert isinstance(state, dict)
    return state


class Checkpoints:
    """The checkpoints of one job at one place; used by rank 0 alone.

    Args:
        location: A directory, or the URL of one.
        keep: How many of the newest stay.

    Attributes:
        newest: The newest one that was written or loaded.
        failures: How many could not be written.
        failure: Why the last one could not be written, until one succeeds.

    Raises:
        StorageError: The URL's driver is not installed, or nobody knows its scheme.
    """

    def __init__(self, location: str | Path, *, keep: int) -> None:
        self._storage, self._keep = Storage(str(location)), keep
        self._writer: threading.Thread | None = None
        self._spare: State | None = None
        self._damaged: set[str] = set()
        self._unread: set[str] = set()
        self.newest: Saved | None = None
        self.failures = 0
        self.failure: str | None = None

    @property
    def busy(self) -> bool:
        """Whether one is being written."""
        return self._writer is not None and self._writer.is_alive()

    def save(self, state: State, step: int) -> None:
        """Write a snapshot in the background; waits for the one before.

        Args:
            state: The snapshot, which is the writer's from now on (see `spare`).
            step: Steps that were taken until then.
        """
        self.wait()
        self._spare = None
        self._writer = threading.Thread(target=self._save, args=(state, step), name="cra-checkpoint")
        self._writer.start()

    def wait(self) -> None:
        """Wait until nothing is being written."""
        if self._writer is not None:
            self._writer.join()

    def spare(self) -> State | None:
        """The last snapshot, once it is written, for the memory of the next one; given away only once."""
        spare, self._spare = self._spare, None
        return spare

    def _save(self, state: State, step: int) -> None:
        try:
            self.newest = self._write(state, step)
            self.failure = None
        except Exception as error:  # Each driver has errors of its own, and none is worth the training.
            self.failures += 1
            self.failure = f"checkpoint of step {step} in {self._storage.name()}: {_text(error)}"
            log.error("%s; training goes on, the checkpoint before it stays", self.failure)
        self._spare = state

    def _write(self, state: State, step: int) -> Saved:
        present = self._list()
        # What a crash left without a manifest is nothing, and may be what fills the disk.
        for leftover in (name for name, whole in present.items() if not whole):
            self._remove(leftover)
        # A finished training saves its last step once more: that one sorts after every other of this step.
        names = (f"{_GOOD}{step:012d}.{n:03d}" for n in itertools.count())
        new = next(name for name in names if name not in present)
        try:
            size, digest = self._write_state(f"{new}/{_STATE}", state)
            now = time.time()
            manifest = {"format": 1, "step": step, "time": now, "size": size, "sha256": digest}
            self._storage.put(f"{new}/{_MANIFEST}", json.dumps(manifest).encode())
        except BaseException:
            self._remove(new)
            raise
        self._prune([new, *(name for name, whole in present.items() if whole)], new)
        return Saved(step=step, path=self._storage.name(new), time=now)

    def _write_state(self, path: str, state: State) -> tuple[int, str]:
        """Write the state; returns its size and SHA-256."""
        hashing = _HashingFile()
        try:
            with self._storage.writing(path) as hashing.file:
                torch.save(state, cast(IO[bytes], hashing))
        except Exception as error:
            # The serializer makes a riddle of what went wrong below it.
            raise hashing.error or error from None
        return hashing.size, hashing.digest()

    def _prune(self, good: Iterable[str], new: str) -> None:
        """Keep the newest, and in any case the `new` one; damaged ones go now that there is a good one."""
        counted = sorted(set(good) - self._damaged - self._unread, reverse=True)
        for old in {*counted[self._keep :], *self._damaged} - {new}:
            self._remove(old)
        self._damaged.clear()

    def _remove(self, name: str) -> None:
        """Remove a checkpoint: the manifest first, or a crash would leave one that looks damaged."""
        try:
            self._storage.remove(f"{name}/{_MANIFEST}")
            self._storage.remove(name)
        except Exception as error:  # It takes room, which is no reason to call a checkpoint a failure.
            log.warning("%s cannot be removed: %s", self._storage.name(name), _text(error))

    def _list(self) -> dict[str, bool]:
        """The names of what was begun, oldest first, and whether each has its manifest."""
        names = [name for name in self._storage.names() if name.startswith(_GOOD)]
        return {name: _MANIFEST in self._storage.names(name) for name in names}

    def load(self) -> Loaded:
        """The newest checkpoint that is whole, and what was wrong with newer ones.

        Raises:
            OSError: The place cannot be read, so nobody knows what to go on from.
        """
        try:
            present = self._list()
        except Exception as error:
            raise OSError(f"checkpoints in {self._storage.name()} cannot be read: {_text(error)}") from error
        rejected: list[str] = []
        for name in (name for name, whole in reversed(present.items()) if whole):
            try:
                saved, payload = self._read(name)
                parse(payload)
            except MemoryError:
                raise
            except Exception as error:  # Whatever is wrong with this one, an older one may be good.
                # One that could not be read today may be good tomorrow, so it stays.
                (self._unread if isinstance(error, UnreadError) else self._damaged).add(name)
                rejected.append(f"{name}: {_text(error)}")
                log.warning("checkpoint passed over: %s", rejected[-1])
                continue
            self.newest = saved
            return Loaded(saved=saved, payload=payload, rejected=tuple(rejected))
        if self._unread:
            raise OSError(f"checkpoints in {self._storage.name()} cannot be read: {'; '.join(rejected)}")
        return Loaded(saved=None, payload=None, rejected=tuple(rejected))

    def _read(self, name: str) -> tuple[Saved, bytes]:
        """A checkpoint's state as bytes that match its manifest."""
        manifest = json.loads(self._storage.read(f"{name}/{_MANIFEST}"))
        payload = self._storage.read(f"{name}/{_STATE}")
        if len(payload) != manifest["size"]:
            raise ValueError(f"{_STATE} has {len(payload)} bytes, the manifest says {manifest['size']}")
        if hashlib.sha256(payload).hexdigest() != manifest["sha256"]:
            raise ValueError(f"{_STATE} does not match the SHA-256 of the manifest")
        path, step = self._storage.name(name), int(manifest["step"])
        return Saved(step=step, path=path, time=float(manifest["time"])), payload


class _HashingFile(io.RawIOBase):
    """Counts and hashes what is written through it, so that the manifest speaks of what was meant, not of
    what landed; remembers the first error.
    """

    file: IO[bytes]

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self.size = 0
        self.error: Exception | None = None

    def write(self, data: Any) -> int:
        # In pieces: a driver that copies them does so holding the interpreter, which training waits for.
        view = memoryview(data).cast("B")
        try:
            for start in range(0, len(view), _CHUNK):
                piece = view[start : start + _CHUNK]
                self._hash.update(piece)
                self.file.write(piece)
        except Exception as error:
            self.error = self.error or error
            raise
        self.size += len(view)
        return len(view)

    def digest(self) -> str:
        return self._hash.hexdigest()


def _text(error: Exception) -> str:
    return str(error) or type(error).__name__
