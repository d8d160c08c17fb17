"""The process between launcher and cluster: starts init in a new PID namespace, outlives it, cleans up.

A cluster has one way to end, whether it is asked to or not: init is killed, and the kernel does the rest.

It exists because a PID namespace starts with the *next* child, and because something outside has to remove
what a namespace does not hold (control groups) after init was killed. It holds the cluster's lock, so the
lock is free exactly when nothing of the cluster is left.
"""

from __future__ import annotations

import argparse
import os
import select
import signal
import socket
import sys
from pathlib import Path

from e2e.local import init
from e2e.local.cgroups import remove_cgroups
from e2e.local.errors import LocalClusterError
from e2e.local.layout import Layout
from e2e.local.namespaces import die_with_parent, start_pid_namespace
from e2e.local.spec import ClusterSpec


def main(arguments: list[str] | None = None) -> int:
    """Run a cluster; returns its exit code."""
    parser = argparse.ArgumentParser(description="Run one cluster; started by the launcher only.")
    parser.add_argument("--spec", type=Path, required=True)
    parser.add_argument("--control-fd", type=int, required=True)
    parser.add_argument("--api-fd", type=int, required=True)
    parser.add_argument("--prometheus-fd", type=int, required=True)
    parser.add_argument("--launcher", type=int, help="process whose end ends the cluster")
    options = parser.parse_args(arguments)

    spec = ClusterSpec.load(options.spec.read_text())
    launcher = _open_launcher(options.launcher)
    sockets = init.Sockets(
        control=socket.socket(fileno=options.control_fd),
        api=socket.socket(fileno=options.api_fd),
        prometheus=socket.socket(fileno=options.prometheus_fd),
    )
    try:
        start_pid_namespace()
        pid = _fork_init(spec, sockets)
    except LocalClusterError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for held in (sockets.control, sockets.api, sockets.prometheus):
        held.close()
    signal.signal(signal.SIGTERM, lambda *_: os.kill(pid, signal.SIGKILL))
    code = _wait(pid, launcher)
    remove_cgroups(Layout(spec.root))
    return code


def _open_launcher(pid: int | None) -> int | None:
    """A descriptor that gets readable when the launcher ends."""
    if pid is None:
        return None
    launcher = os.pidfd_open(pid)
    # NB: had the launcher ended before, its number might be someone else's; then it is not our parent.
    if os.getppid() != pid:
        raise SystemExit("the launcher ended before its cluster began")
    return launcher


def _fork_init(spec: ClusterSpec, sockets: init.Sockets) -> int:
    """Start init as the first process of the PID namespace."""
    read, write = os.pipe()
    pid = os.fork()
    if pid:
        os.close(read)
        os.write(write, b"!")
        os.close(write)
        return pid
    code = 1
    try:
        os.close(write)
        die_with_parent()
        # The keeper may have ended before the line above; then nothing comes through the pipe.
        if os.read(read, 1):
            os.close(read)
            code = init.main(spec, sockets)
    except LocalClusterError as error:
        print(f"error: {error}", file=sys.stderr)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _wait(pid: int, launcher: int | None) -> int:
    """Wait for init, and kill it when the launcher ends first; returns init's exit code."""
    child = os.pidfd_open(pid)
    poll = select.poll()
    poll.register(child, select.POLLIN)
    if launcher is not None:
        poll.register(launcher, select.POLLIN)
    ready = {descriptor for descriptor, _ in poll.poll()}
    if child not in ready:
        os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status)


if __name__ == "__main__":
    sys.exit(main())
