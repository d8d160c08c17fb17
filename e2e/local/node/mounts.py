"""Plans a container's root file system: the host's files, read in place, with the pod's mounts on top.

There is no image store. Every image is the host's own tree, bound read-only entry by entry on a small tmpfs,
because an overlay over `/` is refused inside a user namespace. The catch is the mount points. A bind needs an
existing target, and nothing may ever be created on the host; so where a target is missing on the host (or
sits behind an entry of another kind), its parent directory is *opened*: made anew on the tmpfs, with each of
the host's entries bound (or linked) in it one by one. That repeats upwards, as a bound directory cannot hold
an opened one.

`/dev`, `/proc`, `/run` and `/tmp` are always the container's own. Paths that must stay visible (the
interpreter and the checkout may live beneath the host's `/tmp`) are bound back last, over whatever hides
them.
"""

# Paths of another root, never opened here.
# ruff: noqa: PTH112, PTH114, PTH115, PTH208

import dataclasses
import os
import posixpath
from collections.abc import Iterator, Sequence
from typing import Literal, Protocol, TypeAlias

Kind: TypeAlias = Literal["dir", "file", "link"]
Operation: TypeAlias = tuple[str, ...]
"""A verb of `sandbox_exec.perform`, a path in the container, and what else the verb needs."""

_OWN: Sequence[Operation] = (
    ("dir", "/proc", "555"),
    ("dir", "/dev", "755"),
    ("dir", "/run", "755"),
    ("dir", "/tmp", "1777"),
    ("link", "/dev/fd", "/proc/self/fd"),
    ("link", "/dev/stdin", "/proc/self/fd/0"),
    ("link", "/dev/stdout", "/proc/self/fd/1"),
    ("link", "/dev/stderr", "/proc/self/fd/2"),
)
_OWN_DIRECTORIES = [path for verb, path, *_ in _OWN if verb == "dir"]
_OWN_LINKS = {operation[1]: operation[2] for operation in _OWN if operation[0] == "link"}
_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
_MAX_LINKS = 40


class MountError(Exception):
    """A mount path cannot be had; the message names it."""


class Tree(Protocol):
    """The host's files, as far as planning looks at them."""

    def kind(self, path: str) -> Kind | None:
        """What is at `path`, not followed; None where nothing is."""

    def names(self, path: str) -> list[str]:
        """Entries of the directory `path`."""

    def link(self, path: str) -> str:
        """Target of the symbolic link `path`."""


class HostTree:
    """The real thing."""

    def kind(self, path: str) -> Kind | None:
        if os.path.islink(path):
            return "link"
        if os.path.isdir(path):
            return "dir"
        return "file" if os.path.lexists(path) else None

    def names(self, path: str) -> list[str]:
        return os.listdir(path)

    def link(self, path: str) -> str:
        return os.readlink(path)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mount:
    """A host file or directory `source` that a container sees at `target`."""

    target: str
    source: str
    kind: Kind
    read_only: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """What `sandbox_exec` does: `image` first, then that is made read-only, then `mounts`."""

    image: Sequence[Operation]
    mounts: Sequence[Operation]


def plan(mounts: Sequence[Mount], tree: Tree, *, keep: Sequence[str] = ()) -> Plan:
    """Plans the root file system of a container.

    Args:
        mounts: what the pod mounts; a parent is mounted before what lies beneath it, whatever order
            they come in.
        tree: the host's files.
        keep: host paths (links resolved) that stay visible where an own directory or a mount hides them.

    Raises:
        MountError: a target is not absolute, runs in circles or lies beneath a file.
    """
    targets: list[str] = []
    opened: set[str] = set()
    replaced: set[str] = set()
    operations: list[Operation] = [("proc", "/proc"), ("tmpfs", "/dev/shm", "size=64m,mode=1777")]
    operations += [("rw", f"/dev/{name}", f"/dev/{name}") for name in _DEVICES if tree.kind(f"/dev/{name}")]
    for mount in sorted(mounts, key=lambda mount: posixpath.normpath(mount.target).count("/")):
        target = _resolve(mount.target, tree, targets)
        if not _beneath(target, [*_OWN_DIRECTORIES, *targets]) and tree.kind(target) != mount.kind:
            parents = {parent: tree.kind(parent) for parent in _parents(target)}
            if file := next((parent for parent, kind in parents.items() if kind == "file"), None):
                raise MountError(f"mountPath {mount.target!r} is beneath the file {file}")
            opened.update(parent for parent, kind in parents.items() if kind == "dir")
            replaced.add(target)
        targets.append(target)
        operations.append(("ro" if mount.read_only else "rw", target, mount.source))
    hidden = [path for path in keep if _beneath(path, [*_OWN_DIRECTORIES, *targets])]
    for path in sorted(hidden):
        if not _beneath(path, [other for other in hidden if other != path]):
            operations.append(("ro", path, path))
    return Plan(image=[*_OWN, *_image("/", tree, opened, replaced)], mounts=operations)


def _image(directory: str, tree: Tree, opened: set[str], replaced: set[str]) -> Iterator[Operation]:
    for name in sorted(tree.names(directory)):
        path = posixpath.join(directory, name)
        if path in replaced or path in _OWN_DIRECTORIES:
            continue
        if tree.kind(path) == "link":
            yield "link", path, tree.link(path)
        elif path in opened:
            yield "dir", path, "755"
            yield from _image(path, tree, opened, replaced)
        else:
            yield "image", path, path


def _resolve(target: str, tree: Tree, mounted: Sequence[str]) -> str:
    """Follows the links that the container will see; those inside of mounts are left alone."""
    if not target.startswith("/"):
        raise MountError(f"mountPath {target!r} must be absolute")
    done, todo, links = "/", _parts(target), 0
    while todo:
        here = posixpath.normpath(posixpath.join(done, todo.pop(0)))
        if _beneath(here, mounted):
            link = None
        elif _beneath(here, _OWN_DIRECTORIES):
            link = _OWN_LINKS.get(here)
        else:
            link = tree.link(here) if tree.kind(here) == "link" else None
        if link is None:
            done = here
            continue
        links += 1
        if links > _MAX_LINKS:
            raise MountError(f"mountPath {target!r} runs in circles")
        done = "/" if link.startswith("/") else done
        todo = _parts(link) + todo
    if done == "/":
        raise MountError(f"mountPath {target!r} is the root")
    return done


def _parts(path: str) -> list[str]:
    return [part for part in path.split("/") if part and part != "."]


def _parents(path: str) -> Iterator[str]:
    while path != "/":
        path = posixpath.dirname(path)
        yield path


def _beneath(path: str, directories: Sequence[str]) -> bool:
    return path in directories or any(parent in directories for parent in _parents(path))
