"""How much of its memory this process has left at its fullest.

On a GPU that is the device's, of which others may hold a part; on a CPU that of the control group, which is
the pod's limit, or no limit at all.
"""

from __future__ import annotations

import resource
from pathlib import Path

import torch

LIMITS = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes")
# Steps between two looks: one takes 0.1 ms on a GPU.
EVERY = 16


class Room:
    """Part of the memory that was never used, in [0, 1]; 1 where there is no limit."""

    def __init__(self, device: torch.device, limits: tuple[Path, ...] = LIMITS) -> None:
        self._cuda = device if device.type == "cuda" else None
        self._limit = _limit(limits)
        self._calls = 0
        self._last = 1.0

    @property
    def fullest(self) -> int:
        """Bytes that this process has held at its fullest."""
        if self._cuda is not None:
            return torch.cuda.max_memory_allocated(self._cuda)
        return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    def __call__(self) -> float:
        """As it was at the last look."""
        if self._calls % EVERY == 0:
            self._last = self._look()
        self._calls += 1
        return self._last

    def _look(self) -> float:
        if self._cuda is not None:
            free, total = torch.cuda.mem_get_info(self._cuda)
            held = torch.cuda.memory_reserved(self._cuda)
            # What the allocator holds beyond the fullest moment it can give again.
            used = total - free - held + self.fullest
            return max(0.0, 1 - used / total)
        if self._limit is None:
            return 1.0
        return max(0.0, 1 - self.fullest / self._limit)


def _limit(paths: tuple[Path, ...]) -> int | None:
    """The control group's limit in bytes, if it has one."""
    for path in paths:
        try:
            text = path.read_text().strip()
        except OSError:
            continue
        # Version 1 writes the largest number of pages for no limit.
        return int(text) if text.isdecimal() and int(text) < 2**60 else None
    return None
