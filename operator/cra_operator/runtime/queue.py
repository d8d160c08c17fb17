"""The work queue: which jobs are due, each in a lane of its own.

A key says only *that* something about a job may have changed. Keys that are added while they wait are merged;
a key that is added while it is worked on waits until that work is done and is then taken again, so no job is
ever worked on twice at once and no change is missed. A key that failed comes back after a delay that doubles.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)

_FIRST_RETRY = 0.1
_LONGEST_RETRY = 60.0


class WorkQueue(Generic[K]):
    """A queue of keys for workers in one event loop."""

    def __init__(self) -> None:
        self._ready: OrderedDict[K, float] = OrderedDict()
        self._working: set[K] = set()
        self._again: set[K] = set()
        self._later: dict[K, tuple[float, asyncio.TimerHandle]] = {}
        self._failures: dict[K, int] = {}
        self._finished = 0.0
        self._free: deque[asyncio.Future[None]] = deque()

    @property
    def depth(self) -> int:
        """How many keys are due and not worked on."""
        return len(self._ready) + len(self._again)

    @property
    def stalled(self) -> float:
        """Seconds for which a key has been due without any work being finished; 0 if none is due."""
        if not self._ready:
            return 0.0
        return time.monotonic() - max(self._finished, next(iter(self._ready.values())))

    def add(self, key: K) -> None:
        """Make a key due now."""
        if key in self._working:
            self._again.add(key)
        elif key not in self._ready:
            self._ready[key] = time.monotonic()
            self._wake_one()

    def _wake_one(self) -> None:
        """Wake one idle worker, not all: with many of them the others would only find the queue empty."""
        while self._free:
            worker = self._free.popleft()
            if not worker.done():
                worker.set_result(None)
                return

    def add_after(self, key: K, delay: float) -> None:
        """Make a key due after some seconds, unless it is due earlier by another such wish."""
        due = time.monotonic() + delay
        if key in self._later:
            if self._later[key][0] <= due:
                return
            self._later[key][1].cancel()
        loop = asyncio.get_running_loop()
        self._later[key] = due, loop.call_later(max(0.0, delay), self._due, key)

    def _due(self, key: K) -> None:
        del self._later[key]
        self.add(key)

    async def get(self) -> K:
        """Wait for the next key and start working on it; `done` must follow."""
        while not self._ready:
            turn = asyncio.get_running_loop().create_future()
            self._free.append(turn)
            try:
                await turn
            except asyncio.CancelledError:
                if self._ready and not turn.cancelled():
                    self._wake_one()  # the turn was given to a worker that goes away
                raise
        key, _ = self._ready.popitem(last=False)
        self._working.add(key)
        return key

    def done(self, key: K) -> None:
        """End the work on a key."""
        self._finished = time.monotonic()
        self._working.discard(key)
        if key in self._again:
            self._again.discard(key)
            self.add(key)

    def failed(self, key: K) -> float:
        """Note that the work failed; the key becomes due again after the delay that is returned."""
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        delay: float = min(_LONGEST_RETRY, _FIRST_RETRY * 2 ** min(failures, 16))
        self.add_after(key, delay)
        return delay

    def succeeded(self, key: K) -> None:
        """Note that the work succeeded: the next failure starts with a short delay again."""
        self._failures.pop(key, None)

    def forget(self, key: K) -> None:
        """Drop all memory of a key that no longer exists, as far as it is not worked on."""
        self.succeeded(key)
        self._again.discard(key)
        self._ready.pop(key, None)
        if key in self._later:
            self._later.pop(key)[1].cancel()
