"""Which clusters exist: state directories, the lock that says who lives, and ending what was left behind."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import shutil
import signal
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from e2e.local.cgroups import remove_cgroups
from e2e.local.errors import ClusterExistsError, LocalClusterError
from e2e.local.layout import Layout, clusters_home

_LOCK_PATIENCE, _LOCK_POLL = 2.0, 0.05
_LOGS_KEPT_SECONDS = 24 * 3600


@dataclass(frozen=True, kw_only=True)
class Record:
    """How to find a running cluster.

    Attributes:
        keeper: Process id of its keeper.
        started: Start time of that process in clock ticks since boot, as its number may be used again.
        prometheus_url: Address of Prometheus on the host.
        tools: Directory or path of each tool, by name.
    """

    keeper: int
    started: int
    prometheus_url: str
    tools: dict[str, str]

    def write(self, path: Path) -> None:
        """Write the record in one step."""
        scratch = path.with_suffix(".new")
        scratch.write_text(json.dumps(asdict(self)))
        scratch.rename(path)

    @classmethod
    def read(cls, path: Path) -> Record | None:
        """The record at `path`, or None where there is none."""
        try:
            raw = json.loads(path.read_text())
        except FileNotFoundError:
            return None
        # Another version of this package may have written it, and more into it.
        return cls(**{known.name: raw[known.name] for known in fields(cls)})


def start_time(pid: int) -> int | None:
    """Start time of a process in clock ticks since boot, None when there is no such process."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The second field is the program's name in brackets, which may hold spaces and brackets itself.
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else int(fields[19])


def is_alive(record: Record) -> bool:
    """Whether the cluster of a record still runs."""
    return start_time(record.keeper) == record.started


def take_lock(layout: Layout) -> int:
    """Claim a cluster's name; the claim lasts until the last holder of the descriptor closes it.

    Raises:
        ClusterExistsError: Somebody holds it, and not just to sweep up or on the way out.
    """
    deadline = time.monotonic() + _LOCK_PATIENCE
    while (descriptor := _try_lock(layout)) is None:
        record = Record.read(layout.record)
        if time.monotonic() > deadline or (record is not None and is_alive(record)):
            name = layout.root.name
            raise ClusterExistsError(
                f"cluster {name} runs already, or is being started; end it with "
                f"`python -m e2e.local down --name {name}`, or take another name"
            )
        time.sleep(_LOCK_POLL)
    return descriptor


def _try_lock(layout: Layout) -> int | None:
    descriptor = os.open(layout.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def wait_for_end(pid: int, timeout: float) -> bool:
    """Wait until a process has ended; False when it has not after `timeout` seconds."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        return bool(poll.poll(timeout * 1000))
    finally:
        os.close(descriptor)


def end(record: Record, grace: float) -> None:
    """End a cluster: ask its keeper, or kill it.

    Args:
        record: The cluster.
        grace: Seconds that the keeper has to kill init and clean up.

    Raises:
        LocalClusterError: It is still there after it was killed.
    """
    for number, patience in ((signal.SIGTERM, grace), (signal.SIGKILL, 10.0)):
        if not is_alive(record):
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(record.keeper, number)
        if wait_for_end(record.keeper, patience):
            return
    raise LocalClusterError(f"process {record.keeper} does not end, although it was killed")


def sweep(layout: Layout, *, keep_logs: bool) -> None:
    """Remove what a cluster that has ended left on disk and in the kernel.

    Args:
        layout: The cluster's.
        keep_logs: Whether to leave the logs of components and pods.
    """
    remove_cgroups(layout)
    if keep_logs and layout.logs.is_dir():
        for folder in layout.node.glob("pods/*/logs"):
            folder.rename(layout.logs / f"pod-{folder.parent.name}")
    for entry in layout.root.iterdir():
        if entry == layout.lock or (keep_logs and entry == layout.logs):
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def sweep_dead() -> None:
    """Remove what clusters left that were killed together with their keepers, and logs older than a day."""
    home = clusters_home()
    for folder in home.iterdir() if home.is_dir() else ():
        # Another process may be sweeping, too.
        with contextlib.suppress(FileNotFoundError):
            _sweep_if_dead(Layout(folder))


def _sweep_if_dead(layout: Layout) -> None:
    outdated = time.time() - layout.root.stat().st_mtime > _LOGS_KEPT_SECONDS
    # A fresh folder without a record belongs to somebody who is about to take its lock.
    if not (outdated or layout.record.exists()) or (lock := _try_lock(layout)) is None:
        return
    try:
        sweep(layout, keep_logs=not outdated)
        if outdated:
            shutil.rmtree(layout.root)
    finally:
        os.close(lock)


def clusters() -> Iterator[tuple[str, Record]]:
    """Name and record of each running cluster, by name."""
    home = clusters_home()
    for folder in sorted(home.iterdir()) if home.is_dir() else ():
        record = Record.read(Layout(folder).record)
        if record is not None and is_alive(record):
            yield folder.name, record
