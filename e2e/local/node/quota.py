"""CPU quotas of pods, from outside: a simulated GPU is a share of a core.

Where the kernel lets us make control groups, the scheduler enforces the quota. Elsewhere (an ordinary user,
most containers) a throttler stops and continues the pod's processes by signals, so that what they burn stays
on a line; coarser, but the same on average. Both count all processes of all containers of the pod.
"""

import asyncio
import contextlib
import logging
import os
import signal
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Protocol

from . import processes
from .config import cluster_id

_log = logging.getLogger(__name__)

# The kernel deals CPU time out in periods: a pod of half a core runs 10 ms, then stands 10 ms. Two ranks that
# wait for each other after every 4 ms of work made as many steps with 10, 20, 50 and 100 ms (within 5 %); a
# short period makes their steps even, and the kernel's own slices (5 ms) forbid much shorter ones.
PERIOD_MICROSECONDS = 20_000
_THROTTLER_PERIOD = 0.02
_THROTTLER_BURST = 0.02


class Quota(Protocol):
    """A way to limit pods."""

    def groups(self, pod: str) -> list[str]:
        """The `cgroup.procs` files that the pod's processes have to join."""

    def limit(self, pod: str, cores: float | None) -> None:
        """Limits what the pod burns from now on; None lifts the limit."""

    def forget(self, pod: str) -> None:
        """Cleans up after a pod whose processes have ended."""

    def close(self) -> None:
        """Cleans up after all pods, when all their processes have ended."""


class CgroupQuota:
    """Quotas by control groups, of version 1 or 2."""

    def __init__(self, root: Path, *, unified: bool) -> None:
        """Makes the cluster's group at `root`.

        Raises:
            OSError: the kernel does not allow it.
        """
        self._root, self._unified = root, unified
        remove_groups(root)
        root.mkdir()
        try:
            if unified:
                (root / "cgroup.subtree_control").write_text("+cpu")
            self._write(root, None)
        except OSError:
            root.rmdir()
            raise

    def groups(self, pod: str) -> list[str]:
        group = self._root / pod
        group.mkdir(exist_ok=True)
        return [str(group / "cgroup.procs")]

    def limit(self, pod: str, cores: float | None) -> None:
        self._write(self._root / pod, cores)

    def forget(self, pod: str) -> None:
        with contextlib.suppress(OSError):
            (self._root / pod).rmdir()

    def close(self) -> None:
        remove_groups(self._root)

    def _write(self, group: Path, cores: float | None) -> None:
        micros = None if cores is None else max(1000, round(cores * PERIOD_MICROSECONDS))
        if self._unified:
            (group / "cpu.max").write_text(f"{'max' if micros is None else micros} {PERIOD_MICROSECONDS}")
            burst = group / "cpu.max.burst"
        else:
            (group / "cpu.cfs_quota_us").write_text("-1" if micros is None else str(micros))
            (group / "cpu.cfs_period_us").write_text(str(PERIOD_MICROSECONDS))
            burst = group / "cpu.cfs_burst_us"
        # On a busy machine a pod may not get its part of a period; it can make up for that in the next.
        if micros is not None and burst.exists():
            burst.write_text(str(micros))


class SignalQuota:
    """Quotas by SIGSTOP and SIGCONT: a token bucket per pod, filled at the allowed rate."""

    def __init__(self, pids: Callable[[str], Iterable[int]]) -> None:
        """`pids` gives the process ids of a pod, as of a moment ago."""
        self._pids = pids
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def groups(self, pod: str) -> list[str]:
        return []

    def limit(self, pod: str, cores: float | None) -> None:
        self.forget(pod)
        if cores is not None:
            self._tasks[pod] = asyncio.create_task(self._throttle(pod, cores))

    def forget(self, pod: str) -> None:
        if (task := self._tasks.pop(pod, None)) is not None:
            task.cancel()

    def close(self) -> None:
        for pod in list(self._tasks):
            self.forget(pod)

    async def _throttle(self, pod: str, cores: float) -> None:
        stopped: set[int] = set()
        burnt: dict[int, float] = {}
        bucket, then = _THROTTLER_BURST * cores, time.monotonic()
        try:
            while True:
                await asyncio.sleep(_THROTTLER_PERIOD)
                usages = {pid: usage for pid in self._pids(pod) if (usage := processes.read(pid))}
                spent = sum(
                    max(0.0, u.cpu_seconds - burnt.get(pid, u.cpu_seconds)) for pid, u in usages.items()
                )
                burnt = {pid: usage.cpu_seconds for pid, usage in usages.items()}
                now = time.monotonic()
                bucket = min(bucket + (now - then) * cores - spent, _THROTTLER_BURST * cores)
                then = now
                if bucket < 0:
                    _send(usages.keys() - stopped, signal.SIGSTOP)
                    stopped = set(usages)
                elif stopped:
                    _send(stopped, signal.SIGCONT)
                    stopped = set()
        finally:
            _send(stopped, signal.SIGCONT)


def _send(pids: Iterable[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def choose(root_dir: Path, pids: Callable[[str], Iterable[int]]) -> Quota:
    """The best quota that this machine offers."""
    for root, unified in _cgroup_roots(root_dir):
        try:
            return CgroupQuota(root, unified=unified)
        except OSError as error:
            _log.info("no control group at %s: %s", root, error)
    _log.info("simulated GPUs are throttled by signals")
    return SignalQuota(pids)


def remove_groups(root: Path) -> None:
    """Removes a group with its subgroups, as far as no process is left in them."""
    if root.is_dir():
        for group in root.iterdir():
            if group.is_dir():
                remove_groups(group)
        with contextlib.suppress(OSError):
            root.rmdir()


def _cgroup_roots(root_dir: Path) -> list[tuple[Path, bool]]:
    """Where the cluster's group may be: hierarchies with a `cpu` controller, with whether that is unified."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields, _, after = line.partition(" - ")
        kind, _, options = after.split(" ", 2)
        mount_point = Path(fields.split()[4])
        if kind == "cgroup" and "cpu" in options.split(","):
            found.append((mount_point, False))
        elif kind == "cgroup2" and "cpu" in (mount_point / "cgroup.controllers").read_text().split():
            found.append((mount_point, True))
    return [(mount_point / cluster_id(root_dir), unified) for mount_point, unified in found]
