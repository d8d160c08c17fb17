"""Becomes a container: enters the pod's namespaces, builds the root file system, drops privileges, executes.

This file is run as a script by a bare interpreter (`python -I -S`), so that the agent, which has threads and
much memory, never forks Python code. It imports nothing of the project. The process is born as PID 1 of a new
PID namespace (the agent's spawner saw to that) and stays it: the container's own program replaces this one.

`argv[1]` is a file descriptor with the order as JSON, `argv[2]` one that closes on exec and takes the error,
if any.

An order with `root` builds a container:
    `namespaces`: descriptors to enter; `groups`: `cgroup.procs` files to join;
    `root`: an empty directory to mount on; `image`: operations that lay out the root, read-only afterwards;
    `mounts`: operations on top of it; `readOnlyRoot`: whether the root itself refuses to be written to;
    `argv`, `env`, `cwd`: what to execute.
An order without `root` runs a command in a container that exists already: `namespaces` then hold its mounts
too.
"""

# Plain strings: importing pathlib would cost more than all that is done here.
# ruff: noqa: PTH101, PTH103, PTH112, PTH120, PTH123, PTH211

import ctypes
import json
import os
import sys

CLONE_NEWNS = 0x20000
MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_BIND, MS_REC, MS_PRIVATE = 2, 4, 8, 4096, 16384, 1 << 18
MNT_DETACH = 2
SYS_MOUNT_SETATTR, AT_FDCWD, AT_RECURSIVE, MOUNT_ATTR_RDONLY = 442, -100, 0x8000, 1
SYS_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
PR_SET_PDEATHSIG, PR_CAPBSET_DROP = 1, 24
START_ERROR = 128
# What container runtimes leave to root by default, except mknod: chown, dac_override, fowner, fsetid, kill,
# setgid, setuid, setpcap, net_bind_service, net_raw, sys_chroot, audit_write, setfcap.
KEPT_CAPABILITIES = {0, 1, 3, 4, 5, 6, 7, 8, 10, 13, 18, 29, 31}

libc = ctypes.CDLL(None, use_errno=True)


def check(result: int, what: str) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def mount(source: str, target: str, kind: str, flags: int, data: str = "") -> None:
    arguments = source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), data.encode()
    check(libc.mount(*arguments), f"mount {source} on {target}")


def set_read_only(path: str, *, recursive: bool, on: bool = True) -> None:
    # NB: a remount would have to repeat flags that are locked in a user namespace; this call only touches its
    # own.
    attributes = (ctypes.c_uint64 * 4)(MOUNT_ATTR_RDONLY if on else 0, 0 if on else MOUNT_ATTR_RDONLY, 0, 0)
    flags = AT_RECURSIVE if recursive else 0
    size = ctypes.c_size_t(ctypes.sizeof(attributes))
    result = libc.syscall(SYS_MOUNT_SETATTR, AT_FDCWD, path.encode(), flags, ctypes.byref(attributes), size)
    check(result, f"make {path} read-only")


def make_mount_point(source: str, target: str) -> None:
    if os.path.lexists(target):
        return
    if os.path.isdir(source):
        os.makedirs(target)
    else:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        os.close(os.open(target, os.O_CREAT | os.O_WRONLY, 0o644))


def perform(root: str, operation: str, path: str, *rest: str) -> None:
    target = root + path
    match operation:
        case "dir":
            os.makedirs(target, int(rest[0], 8), exist_ok=True)
            os.chmod(target, int(rest[0], 8))
        case "link":
            os.symlink(rest[0], target)
        case "proc":
            mount("proc", target, "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
        case "tmpfs":
            os.makedirs(target, exist_ok=True)
            mount("tmpfs", target, "tmpfs", MS_NOSUID | MS_NODEV, rest[0])
        case "image" | "ro" | "rw":
            if operation == "image" and not os.path.lexists(rest[0]):
                return  # it was deleted since the agent looked
            make_mount_point(rest[0], target)
            mount(rest[0], target, "", MS_BIND | MS_REC)
            if operation == "ro":
                set_read_only(target, recursive=True)


def build_root(order: dict) -> None:  # type: ignore[type-arg]
    root: str = order["root"]
    check(libc.unshare(CLONE_NEWNS), "new mount namespace")
    mount("", "/", "", MS_REC | MS_PRIVATE)
    mount("root", root, "tmpfs", MS_NOSUID | MS_NODEV, "mode=755")
    for operation in order["image"]:
        perform(root, *operation)
    set_read_only(root, recursive=True)
    set_read_only(root, recursive=False, on=False)
    for operation in order["mounts"]:
        perform(root, *operation)
    if order["readOnlyRoot"]:
        set_read_only(root, recursive=False)
    # Stacks the new root over the old one and takes the old one away from beneath.
    os.chdir(root)
    check(libc.syscall(SYS_PIVOT_ROOT[os.uname().machine], b".", b"."), "pivot_root")
    check(libc.umount2(b".", MNT_DETACH), "detach the host's root")


def main() -> None:
    with open(int(sys.argv[1])) as file:
        order = json.load(file)
    os.set_inheritable(int(sys.argv[2]), False)
    try:
        libc.prctl(PR_SET_PDEATHSIG, 9)
        for group in order["groups"]:
            with open(group, "w") as procs:
                procs.write("0")
        for namespace in order["namespaces"]:
            check(libc.setns(namespace, 0), "enter namespace")
            os.close(namespace)
        if "root" in order:
            build_root(order)
        for capability in range(64):
            if capability not in KEPT_CAPABILITIES:
                libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)
        os.umask(0o022)
        os.chdir(order["cwd"])
        os.execvpe(order["argv"][0], order["argv"], order["env"])
    except OSError as error:
        named = f" {error.filename!r}" if error.filename else ""
        os.write(int(sys.argv[2]), f"{order['argv'][0]!r}: {error.strerror}{named}".encode())
        os._exit(START_ERROR)


if __name__ == "__main__":
    main()
