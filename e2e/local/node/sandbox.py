"""Namespaces and processes: what a container runtime does, as far as it is needed here.

A pod has a network, a UTS and an IPC namespace, held open by file descriptors of the agent (no pause
process). A container has a mount and a PID namespace; **its process is PID 1 there**, as under a real
runtime, so signals without a handler do nothing to it, except SIGKILL, which takes everything in the
namespace with it.

A process lands in a new PID namespace only when its parent's thread asked for one before, and the kernel's
death signal follows the parent's *thread*; so a single thread of the agent, which lives as long as it, spawns
everything. When the agent dies, so do all containers.
"""

import asyncio
import concurrent.futures
import contextlib
import ctypes
import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from . import sandbox_exec
from .mounts import Plan

CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC, CLONE_NEWPID, CLONE_NEWNET = (
    0x00020000,
    0x04000000,
    0x08000000,
    0x20000000,
    0x40000000,
)
_libc = ctypes.CDLL(None, use_errno=True)
_T = TypeVar("_T")


class StartError(Exception):
    """The container could not be started; the message says why, in words for its status."""


def unshare(flags: int) -> None:
    """Moves the calling thread into new namespaces."""
    _check(_libc.unshare(flags), "unshare")


def enter(namespace: int) -> None:
    """Moves the calling thread into the namespace behind a descriptor."""
    _check(_libc.setns(namespace, 0), "enter namespace")


def mount_tmpfs(path: Path, options: str) -> None:
    """Mounts memory at `path` in the agent's own mount namespace."""
    flags = sandbox_exec.MS_NOSUID | sandbox_exec.MS_NODEV
    sandbox_exec.mount("tmpfs", str(path), "tmpfs", flags, options)


def unmount(path: Path) -> None:
    """Detaches what `mount_tmpfs` mounted."""
    _check(_libc.umount2(str(path).encode(), sandbox_exec.MNT_DETACH), f"unmount {path}")


def make_mounts_private() -> None:
    """Gives this process mounts of its own, that nobody outside sees. Before any thread starts."""
    unshare(CLONE_NEWNS)
    sandbox_exec.mount("", "/", "", sandbox_exec.MS_REC | sandbox_exec.MS_PRIVATE)


async def in_new_thread(function: Callable[[], _T]) -> _T:
    """Runs `function` in a thread of its own, which may wander off into other namespaces."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[_T] = loop.create_future()

    def settle(setter: Callable[[Any], None], value: Any) -> None:
        if not future.done():
            setter(value)

    def run() -> None:
        try:
            result = function()
        except Exception as error:
            loop.call_soon_threadsafe(settle, future.set_exception, error)
        else:
            loop.call_soon_threadsafe(settle, future.set_result, result)

    threading.Thread(target=run, daemon=True).start()
    return await future


class Process:
    """A running process, known by a descriptor, so that signals never hit a successor of its number."""

    def __init__(self, popen: "subprocess.Popen[bytes]") -> None:
        self.pid = popen.pid
        self._popen = popen
        self._pidfd = os.pidfd_open(popen.pid)
        self.exited: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        """Gives the exit code as Kubernetes has it: 128 + n after signal n."""
        asyncio.get_running_loop().add_reader(self._pidfd, self._reap)

    def _reap(self) -> None:
        asyncio.get_running_loop().remove_reader(self._pidfd)
        os.close(self._pidfd)
        self._pidfd = -1
        code = self._popen.wait()
        self.exited.set_result(128 - code if code < 0 else code)

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal, if the process still runs."""
        if self._pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Order:
    """A container to start."""

    argv: Sequence[str]
    env: Mapping[str, str]
    cwd: str
    root: Path
    """An empty directory; the new root is mounted on it, in the container's mount namespace only."""
    plan: Plan
    read_only_root: bool
    namespaces: Sequence[int]
    """Descriptors of the pod's namespaces."""
    groups: Sequence[str]
    """The `cgroup.procs` files of the groups to join."""


class Spawner:
    """Starts processes in PID namespaces, one after the other, from the thread that is their parent."""

    def __init__(self) -> None:
        # Not the interpreter of the virtual environment: without `site` it would only look for it.
        self._interpreter = getattr(sys, "_base_executable", sys.executable)
        self._own_pid_namespace = os.open("/proc/self/ns/pid", os.O_RDONLY)
        self._thread = concurrent.futures.ThreadPoolExecutor(max_workers=1, thread_name_prefix="spawner")

    async def start(self, order: Order, output: int) -> Process:
        """Starts a container, with `output` as its standard output and error.

        Raises:
            StartError: the root cannot be built or the program cannot be executed.
        """
        content = {
            "namespaces": list(order.namespaces),
            "groups": list(order.groups),
            "root": str(order.root),
            "image": order.plan.image,
            "mounts": order.plan.mounts,
            "readOnlyRoot": order.read_only_root,
            "argv": list(order.argv),
            "env": dict(order.env),
            "cwd": order.cwd,
        }
        return await self._spawn(content, output, pid_namespace=None)

    async def execute(
        self, beside: Process, argv: Sequence[str], env: Mapping[str, str], output: int
    ) -> Process:
        """Starts `argv` inside the running container whose first process is `beside`.

        Raises:
            StartError: the container is gone, or the program cannot be executed.
        """
        with contextlib.ExitStack() as stack:
            namespaces = {}
            try:
                for name in ("pid", "net", "uts", "ipc", "mnt"):
                    namespaces[name] = os.open(f"/proc/{beside.pid}/ns/{name}", os.O_RDONLY)
                    stack.callback(os.close, namespaces[name])
            except OSError as error:
                raise StartError("the container is not running") from error
            pid_namespace = namespaces.pop("pid")
            content = {
                "namespaces": list(namespaces.values()),
                "groups": [],
                "argv": list(argv),
                "env": dict(env),
                "cwd": "/",
            }
            return await self._spawn(content, output, pid_namespace=pid_namespace)

    async def _spawn(self, order: Mapping[str, Any], output: int, *, pid_namespace: int | None) -> Process:
        loop = asyncio.get_running_loop()
        order_fd = os.memfd_create("order")
        os.write(order_fd, json.dumps(order).encode())
        os.lseek(order_fd, 0, os.SEEK_SET)
        error_read, error_write = os.pipe()
        try:
            argv = [self._interpreter, "-I", "-S", sandbox_exec.__file__, str(order_fd), str(error_write)]
            descriptors = (order_fd, error_write, *order["namespaces"])
            popen = await loop.run_in_executor(
                self._thread, self._spawn_in_thread, argv, output, descriptors, pid_namespace
            )
        except OSError as error:
            os.close(error_read)
            raise StartError(f"cannot start a process: {error}") from error
        finally:
            os.close(order_fd)
            os.close(error_write)
        process = Process(popen)
        message = await _read_to_end(error_read)
        if message:
            await process.exited
            raise StartError(message.decode(errors="replace"))
        return process

    def _spawn_in_thread(
        self, argv: Sequence[str], output: int, descriptors: Sequence[int], pid_namespace: int | None
    ) -> "subprocess.Popen[bytes]":
        if pid_namespace is None:
            unshare(CLONE_NEWPID)
        else:
            _check(_libc.setns(pid_namespace, CLONE_NEWPID), "enter PID namespace")
        try:
            return subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=tuple(descriptors),
                env={},
                start_new_session=True,
            )
        finally:
            _check(_libc.setns(self._own_pid_namespace, CLONE_NEWPID), "return to own PID namespace")


async def _read_to_end(descriptor: int) -> bytes:
    loop = asyncio.get_running_loop()
    with os.fdopen(descriptor, "rb", closefd=True) as file:
        reader = asyncio.StreamReader()
        transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), file)
        try:
            return await reader.read()
        finally:
            transport.close()


def _check(result: int, what: str) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
