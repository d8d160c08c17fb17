"""The allocator over the ranks of a training group: who trains how many rows of the next global batch.

Every rank runs this planner on the same numbers (each rank's compute time, shared in every step on a
collective that the step does anyway) and computes the same plan, so there is no coordinator. Two machines can
still disagree in the last bit of an exponential, and ranks that disagree about a plan would train some rows
twice and some never. So a new plan is first only pending: its digest travels with the next step's numbers,
and all ranks adopt it in the same step if, and only if, every digest is the same. What follows from an
adopted plan (the rows of a smaller last batch) is computed from its whole units, in arithmetic that is exact
everywhere.

A plan is changed only when the step would get faster by more than `GAIN`: shares that follow every tremble
cost locality and gain nothing.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cra_trainer.allocation.capability import CapabilityTracker
from cra_trainer.allocation.shares import Floats, Ints, apportion
from cra_trainer.allocation.strategies import Allocation, Nodes, Strategy

# The first steps of a process measure its warm-up: allocations, autotuning, the reducer's own rebuild.
WARM_UP = 2
# Whole numbers up to this are exact in every floating type that gradients come in, bfloat16 included.
DIGESTS = 256
GAIN = 0.02


class RankPlanner:
    """Plans the rows of each rank, from measured times.

    Args:
        strategy: How the batch is split.
        world_size: Number of ranks.
        batch_size: Rows of a full global batch, at least one per rank.
    """

    def __init__(self, *, strategy: Strategy, world_size: int, batch_size: int) -> None:
        if batch_size < world_size:
            raise ValueError(
                f"batchSize {batch_size}: expected at least one row for each of {world_size} ranks"
            )
        self.batch_size = batch_size
        self._strategy = strategy
        self._world_size = world_size
        self._tracker = CapabilityTracker(world_size)
        self._slack: Floats = np.zeros(world_size)
        self._steps = 0
        self._interval = max(10, world_size // 16)
        self._unit_seconds: list[Floats] = []
        self.allocation = strategy.allocate(self._observe_nodes())
        self._full = self._apportion(self.allocation.shares)
        self._pending: tuple[Ints, Allocation] | None = None

    @property
    def capability(self) -> Floats:
        """Measured samples per second of each rank; 0 where unknown."""
        return self._tracker.samples_per_second

    @property
    def digest(self) -> int:
        """What this rank tells the others of its pending plan: 0 for none, else 1 to `DIGESTS`."""
        return 0 if self._pending is None else zlib.crc32(self._pending[0].tobytes()) % DIGESTS + 1

    def rows(self, total: int) -> Ints:
        """Rows of each rank in a global batch of `total` rows; a smaller last batch keeps the plan's
        proportions.
        """
        if total == self.batch_size:
            return self._full
        return apportion(self._full, total, lo=0 if total < self._world_size else 1)

    def resize(self, kept: Sequence[int]) -> None:
        """Plan for another group, whose rank i was kept[i] in this one, or is new (-1): all ranks that stay
        know the same, so all come to the same plan; a new rank counts as an average one until it is measured.
        """
        self._world_size = len(kept)
        self._tracker = self._tracker.resized(kept)
        self._slack = np.zeros(len(kept))
        self._steps, self._pending = 0, None
        self._unit_seconds.clear()
        self._interval = max(10, self._world_size // 16)
        self.allocation = self._strategy.allocate(self._observe_nodes())
        self._full = self._apportion(self.allocation.shares)

    def rebatch(self, batch_size: int) -> None:
        """Plan for another global batch; every rank does so after the same step."""
        if batch_size == self.batch_size:
            return
        self.batch_size, self._pending = batch_size, None
        # In proportion to the whole rows of before: in these the ranks agree, in shares nearly.
        self._full = self._apportion(self._full)
        self._unit_seconds.clear()

    @property
    def full(self) -> Ints:
        """Rows of each rank in a full global batch."""
        return self._full

    def adopt(self, rows: Ints) -> None:
        """Go by these rows: those of one rank, so that a new group agrees from its first step."""
        self._full = rows

    def _apportion(self, shares: Floats | Ints) -> Ints:
        """Whole rows; every rank has at least one while there are enough."""
        lo = 1 if self.batch_size >= self._world_size else 0
        return apportion(shares, self.batch_size, lo=lo)

    def observe(self, rows: Ints, seconds: Floats, digests: Floats) -> None:
        """Take in one step's numbers of all ranks, the same on every rank, and plan when it is time.

        Args:
            rows: Rows that each rank trained.
            seconds: Seconds that each rank computed.
            digests: `digest` of each rank when the step was reduced.
        """
        self._agree(digests)
        self._steps += 1
        # A smaller last batch measures mostly the fixed cost of a step.
        if self._steps <= WARM_UP or rows.sum() != self.batch_size or not rows.all():
            return
        self._tracker.update(rows, seconds)
        self._slack += 0.2 * (1 - seconds / max(seconds.max(), 1e-9) - self._slack)
        self._unit_seconds.append(seconds / rows)
        if len(self._unit_seconds) >= self._interval and self._pending is None:
            self._propose()

    def _agree(self, digests: Floats) -> None:
        """Adopt the pending plan when all ranks have the same one; forget it when they differ."""
        if not digests.any():
            return
        if self._pending is not None and (digests == self.digest).all():
            self._full, self.allocation = self._pending
        self._pending = None

    def _propose(self) -> None:
        if self._world_size == 1 or not self._tracker.known:
            self._unit_seconds.clear()
            return
        nodes = self._observe_nodes()
        self._strategy.learn(nodes, np.stack(self._unit_seconds))
        self._unit_seconds.clear()
        allocation = self._strategy.allocate(nodes)
        full = self._apportion(allocation.shares)
        if (self._full / allocation.shares).max() > (1 + GAIN) * (full / allocation.shares).max():
            self._pending = full, allocation

    def _observe_nodes(self) -> Nodes:
        n = self._world_size
        measured = self._tracker.samples_per_second
        known = measured > 0
        log_speed = np.log(np.where(known, measured, 1.0))
        # Nothing is known against a rank that has not been measured.
        log_speed = np.where(known, log_speed, log_speed[known].mean() if known.any() else 0.0)
        capability = np.exp(log_speed)
        variation = self._tracker.variation
        return Nodes(
            capability=capability,
            features=np.stack((log_speed - log_speed.mean(), variation, self._slack), axis=1),
            demand=np.array([1.0, np.log(self.batch_size / n) / 10, variation.mean()]),
            # Replicas: each rank holds the whole model and reaches all of the data.
            parameters=np.ones(n),
            data=np.ones(n),
        )

    def state_dict(self) -> dict[str, Any]:
        """What has been learned and measured, as tensors and plain values."""
        return {
            "strategy": self._strategy.state_dict(),
            "tracker": self._tracker.state_dict(),
            "rows": self._full.tolist(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up a saved state; what belongs to single ranks only when there are as many of them."""
        learned = state["strategy"]
        if learned.keys() == self._strategy.state_dict().keys():
            self._strategy.load_state_dict(learned)
        rows = np.asarray(state["rows"], dtype=np.int64)
        if len(rows) == self._world_size and rows.sum() == self.batch_size:
            self._tracker.load_state_dict(state["tracker"])
            self.allocation, self._full = self._strategy.allocate(self._observe_nodes()), rows
