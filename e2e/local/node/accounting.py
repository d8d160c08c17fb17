"""Measures what the pods use, for three purposes: memory limits, GPU utilisation, and the throttler's
targets."""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping

from . import processes
from .pod import Pod

_EVERY_SECONDS = 0.5


class Accounting:
    """Looks at all processes of all pods at intervals."""

    def __init__(self, pods: Callable[[], Iterable[Pod]]) -> None:
        self._pods = pods
        self._pids: Mapping[str, list[int]] = {}

    def pids(self, pod_uid: str) -> list[int]:
        """The pod's processes as of the last look."""
        return self._pids.get(pod_uid, [])

    async def run(self) -> None:
        """Looks until cancelled."""
        while True:
            self._look()
            await asyncio.sleep(_EVERY_SECONDS)

    def _look(self) -> None:
        pods = list(self._pods())
        # Found before the pass over /proc: a process that ends meanwhile is missed, never taken for another
        # one.
        running = {
            container.process.pid: (pod, container)
            for pod in pods
            for container in pod.containers.values()
            if container.process is not None
        }
        if not running:
            self._pids = {}
            return
        found, now = processes.snapshot(), time.monotonic()
        by_pod: dict[str, list[int]] = {pod.uid: [] for pod in pods}
        cpu: dict[str, dict[int, float]] = {pod.uid: {} for pod in pods}
        for root, members in processes.trees(found, running).items():
            pod, container = running[root]
            by_pod[pod.uid] += members
            cpu[pod.uid][root] = sum(found[pid].cpu_seconds for pid in members)
            resident = sum(found[pid].resident_bytes for pid in members)
            if container.memory_limit is not None and resident > container.memory_limit:
                container.kill(out_of_memory=True)
        self._pids = by_pod
        for pod in pods:
            if pod.meter is not None:
                resident = sum(found[pid].resident_bytes for pid in by_pod[pod.uid])
                pod.meter.sample(now, cpu[pod.uid], resident)
