"""The kernel side of a cluster: namespaces, and death that cannot be dodged.

A cluster is the set of processes of one PID namespace. When its first process dies, the kernel kills all
others and takes mounts, network devices and addresses with the last of them; so tearing a cluster down is
killing one process, and nothing that a component does (double fork, own session, ignored SIGTERM) escapes it.

Three links pass death on, each with its own reason:

- launcher -> keeper, by a pidfd that the keeper polls. ``PR_SET_PDEATHSIG`` would not do: it fires when the
  *thread* that forked ends, and a launcher may well start a cluster from a pool thread.
- keeper -> init, by ``PR_SET_PDEATHSIG``; the keeper has one thread.
- init -> everything else, by the PID namespace.

Without ``CAP_SYS_ADMIN`` (an ordinary user, or root in a container that dropped it) the namespaces are made
inside a user namespace in which the caller is uid 0. The standard library has `os.unshare` from 3.12 on only,
and `mount`, `prctl` and `sethostname` not at all or not with what is needed here, hence ctypes.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import socket
from pathlib import Path

from e2e.local.errors import NamespaceError

CLONE_NEWNS = 0x00020000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

_CAP_SYS_ADMIN = 21
_MS_NOSUID, _MS_NODEV, _MS_NOEXEC = 2, 4, 8
_MS_REC, _MS_PRIVATE = 0x4000, 1 << 18
_PR_SET_PDEATHSIG = 1

_libc = ctypes.CDLL(None, use_errno=True)

# What distributions use to keep ordinary users out of user namespaces: the file, the value that shuts them
# out, and what opens them. Read only to explain a refusal that has already happened.
_GATES = (
    ("kernel/unprivileged_userns_clone", "0", "sysctl -w kernel.unprivileged_userns_clone=1"),
    (
        "kernel/apparmor_restrict_unprivileged_userns",
        "1",
        "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0",
    ),
    ("user/max_user_namespaces", "0", "sysctl -w user.max_user_namespaces=15000"),
)


def has_sys_admin() -> bool:
    """Whether this process may make namespaces without a user namespace around them."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> _CAP_SYS_ADMIN & 1)
    return False


def die_with_parent() -> None:
    """Have the kernel kill this process when the thread that forked it ends."""
    _check(_libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0), "prctl(PR_SET_PDEATHSIG)")


def start_pid_namespace() -> None:
    """Have the next child of this process be the first of a new PID namespace, with the right to make others.

    Must be called while the process has a single thread.

    Raises:
        NamespaceError: The kernel refuses; the message says what and how to allow it.
    """
    if has_sys_admin():
        _unshare(CLONE_NEWPID, "a PID namespace")
        return
    uid, gid = os.geteuid(), os.getegid()
    _unshare(CLONE_NEWUSER | CLONE_NEWPID, "user namespaces to a process without privileges")
    try:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
        Path("/proc/self/gid_map").write_text(f"0 {gid} 1")
    except OSError as error:
        raise NamespaceError(_refusal("to map this user into its user namespace", error)) from error


def enter_namespaces() -> None:
    """Give the first process of the PID namespace its own mounts, /proc, network, hostname and IPC.

    Raises:
        NamespaceError: The kernel refuses; the message says what and how to allow it.
    """
    _unshare(CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWUTS | CLONE_NEWIPC, "mount and network namespaces")
    _mount("none", "/", None, _MS_REC | _MS_PRIVATE, "to make the mount tree private")
    _mount(
        "proc",
        "/proc",
        "proc",
        _MS_NOSUID | _MS_NODEV | _MS_NOEXEC,
        "to mount /proc for the cluster's processes",
    )


def set_hostname(name: str) -> None:
    """Name the cluster's UTS namespace, so that prompts and logs tell it from the host."""
    socket.sethostname(name)


def _unshare(flags: int, what: str) -> None:
    if _libc.unshare(flags) != 0:
        code = ctypes.get_errno()
        raise NamespaceError(_refusal(what, OSError(code, os.strerror(code))))


def _mount(source: str, target: str, kind: str | None, flags: int, what: str) -> None:
    done = _libc.mount(
        source.encode(), target.encode(), kind.encode() if kind else None, ctypes.c_ulong(flags), None
    )
    if done != 0:
        code = ctypes.get_errno()
        raise NamespaceError(_refusal(what, OSError(code, os.strerror(code))))


def _check(result: int, what: str) -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise NamespaceError(f"{what}: {os.strerror(code)}")


def _refusal(what: str, error: OSError) -> str:
    gates = {name: (Path("/proc/sys") / name).read_text().strip() for name, _, _ in _GATES if _readable(name)}
    return explain_refusal(what, error, gates, container=_in_container())


def explain_refusal(what: str, error: OSError, gates: dict[str, str], *, container: bool) -> str:
    """Say what the kernel refused and what would allow it.

    Args:
        what: The refused step, in words.
        error: The error of the system call.
        gates: Values of those kernel settings of `_GATES` that exist here.
        container: Whether this process runs in a container.

    Returns:
        One or more sentences, each fix as a command where there is one.
    """
    fixes = [f"run `{fix}` as root" for name, shut, fix in _GATES if gates.get(name) == shut]
    if error.errno == errno.ENOSPC:
        fixes = fixes or ["raise the limits under /proc/sys/user"]
    else:
        if container:
            fixes.append(
                "start the container with `--privileged`, or with `--security-opt seccomp=unconfined "
                "--security-opt apparmor=unconfined --security-opt systempaths=unconfined`"
            )
        fixes.append("run it as root")
    return f"the kernel refuses {what} ({error.strerror}); to allow it, {', or '.join(fixes)}"


def _readable(name: str) -> bool:
    return os.access(Path("/proc/sys") / name, os.R_OK)


def _in_container() -> bool:
    marks = (Path("/.dockerenv"), Path("/run/.containerenv"))
    return any(mark.exists() for mark in marks) or "container" in os.environ
