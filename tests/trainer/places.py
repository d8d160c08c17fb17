"""Places for checkpoints, to be looked into from outside, and one that fails when it is told to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import torch
from fsspec.spec import AbstractBufferedFile

from cra_trainer.checkpoint import Checkpoints, parse


def save(location: str | Path, *steps: int, keep: int = 3) -> Checkpoints:
    checkpoints = Checkpoints(location, keep=keep)
    for step in steps:
        checkpoints.save({"step": step, "weights": torch.full((1000,), float(step))}, step)
        checkpoints.wait()
    return checkpoints


def loaded_step(location: str | Path) -> int | None:
    payload = Checkpoints(location, keep=3).load().payload
    return None if payload is None else int(parse(payload)["step"])


def files(location: str) -> Any:
    """The file system of a location, with paths relative to it."""
    return fsspec.filesystem("dir", path=fsspec.url_to_fs(location)[1], fs=fsspec.url_to_fs(location)[0])


def present(location: str) -> list[str]:
    return sorted(path.rpartition("/")[2] for path in files(location).ls("", detail=False))


def works(operation: str) -> None:
    """What a store that works does when it is asked for an operation."""


class Store(fsspec.AbstractFileSystem):  # type: ignore[misc]
    """An object store: no directories, no rename, and an object is there once it is closed.

    `asked` is called before each operation and may refuse it.
    """

    protocol = "store"
    cachable = False
    objects: ClassVar[dict[str, bytes]] = {}
    asked: Callable[[str], None] = staticmethod(works)

    def ls(self, path: str, detail: bool = True, **kwargs: Any) -> Any:
        Store.asked("ls")
        directory = self._strip_protocol(path) + "/"
        rest = {name[len(directory) :] for name in self.objects if name.startswith(directory)}
        if not rest:
            raise FileNotFoundError(path)
        names = sorted({directory + name.partition("/")[0] for name in rest})
        return [self.info(name) for name in names] if detail else names

    def info(self, path: str, **kwargs: Any) -> dict[str, Any]:
        content = self.objects.get(path)
        return {"name": path, "size": len(content or b""), "type": "directory" if content is None else "file"}

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **kwargs: Any) -> bytes:
        Store.asked("read")
        if path not in self.objects:
            raise FileNotFoundError(path)
        return self.objects[path]

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **kwargs: Any) -> None:
        Store.asked("put")
        self.objects[path] = bytes(value)

    def rm(self, path: str, recursive: bool = False, maxdepth: int | None = None) -> None:
        Store.asked("rm")
        path = self._strip_protocol(path)
        gone = [name for name in self.objects if name == path or name.startswith(f"{path}/")]
        if not gone:
            raise FileNotFoundError(path)
        for name in gone:
            del self.objects[name]

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        raise AssertionError("a driver would make a bucket")

    def _open(self, path: str, mode: str = "rb", **kwargs: Any) -> Upload:
        Store.asked("open")
        return Upload(self, path, mode, block_size=2000)


class Upload(AbstractBufferedFile):  # type: ignore[misc]
    """An object on its way, in parts."""

    def _initiate_upload(self) -> None:
        self.parts: list[bytes] = []

    def _upload_chunk(self, final: bool = False) -> bool:
        Store.asked("write")
        self.parts.append(self.buffer.getvalue())
        if final:
            Store.asked("close")
            self.fs.objects[self.path] = b"".join(self.parts)
        return True
