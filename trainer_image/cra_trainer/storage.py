"""A directory to keep files in: on a disk, or under any URL that fsspec knows.

What both have in common is little: a file can be written from its start to its end, and a small one put there
in one piece. Object stores know neither rename nor directories; disks lose what was not synced. Here is where
they differ, and nowhere else.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, cast

import fsspec
from fsspec.implementations.local import LocalFileSystem


class StorageError(ValueError):
    """Nothing can be kept at this place; the text names it and what is missing."""


class UnreadError(Exception):
    """The bytes of a file did not come, which says nothing about what they are."""


class Storage:
    """A directory by its path or URL; it is made when the first file is written.

    Paths are relative to it. Drivers raise `OSError`, and others of their own.

    Raises:
        StorageError: The URL's driver is not installed, or nobody knows its scheme.
    """

    def __init__(self, location: str) -> None:
        self._fs, self._root = _connect(location)
        self._local = isinstance(self._fs, LocalFileSystem)

    def name(self, path: str = "") -> str:
        """The path or URL of the place, or of something in it."""
        full = self._full(path)
        return full if self._local else str(self._fs.unstrip_protocol(full))

    def names(self, path: str = "") -> list[str]:
        """What is in a directory, sorted; nothing where there is none."""
        # NB: `find` and `exists` of fsspec take any error for absence; nobody would notice that the newest
        # checkpoint is only out of reach. And what drivers remember of a directory may be old.
        self._fs.invalidate_cache()
        try:
            found = self._fs.ls(self._full(path), detail=False)
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted(item.rstrip("/").rpartition("/")[2] for item in found)

    def read(self, path: str) -> bytes:
        """A file's content.

        Raises:
            FileNotFoundError: There is none.
            UnreadError: It could not be had.
        """
        try:
            return bytes(self._fs.cat_file(self._full(path)))
        except FileNotFoundError:
            raise
        except Exception as error:
            raise UnreadError(str(error) or type(error).__name__) from error

    @contextlib.contextmanager
    def writing(self, path: str) -> Iterator[IO[bytes]]:
        """A file to write; after the block it is safe."""
        with self._open(self._full(path)) as file:
            yield file
            if self._local:
                _sync(file)

    def put(self, path: str, content: bytes) -> None:
        """Make a small file appear in one piece, after all that was written beside it before."""
        full = self._full(path)
        if not self._local:
            self._fs.pipe_file(full, content)
            return
        final, part = Path(full), Path(f"{full}.part")
        with part.open("wb") as file:
            file.write(content)
            _sync(file)
        _sync_directory(final.parent.parent)
        part.replace(final)
        _sync_directory(final.parent)

    def remove(self, path: str) -> None:
        """Remove a file, or a directory with all that is in it, if it is there."""
        with contextlib.suppress(FileNotFoundError):
            self._fs.rm(self._full(path), recursive=True)

    def _open(self, full: str) -> IO[bytes]:
        try:
            return cast(IO[bytes], self._fs.open(full, "wb"))
        except FileNotFoundError:
            # NB: only where a file system asks for it. Object stores have no directories; asked to make one,
            # their drivers make a bucket that is missing.
            self._fs.makedirs(full.rpartition("/")[0], exist_ok=True)
            return cast(IO[bytes], self._fs.open(full, "wb"))

    def _full(self, path: str) -> str:
        return f"{self._root}/{path}" if path else self._root


def _connect(location: str) -> tuple[Any, str]:
    """The file system of a place, and its path there."""
    if "://" not in location:
        return LocalFileSystem(), str(Path(location).absolute())
    try:
        fs, path = fsspec.url_to_fs(location)
    except ImportError as error:
        raise StorageError(f"{location}: {error}; the job's image lacks that package") from error
    except ValueError as error:
        raise StorageError(f"{location}: {error}") from error
    return fs, path.rstrip("/")


def _sync(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
