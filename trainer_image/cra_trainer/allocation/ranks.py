"""The allocator over the ranks of a training group: who trains how many rows of the next global batch.

Every rank runs this planner on the same numbers (each rank's compute time, shared in every step on a
collective that the step does anyway) and computes the same plan, so there is no coordinator. Two machines can
still disagree in the last bit of an exponential, and ranks that disagree about a plan would train some rows
twice and some never. So a new plan is first only pending: its digest travels with the next step's numbers,
and all ranks adopt it in the same step if, and only if, every digest is the same. What follows from an
adopted plan (the rows of a smaller last batch) is computed from its whole units, in arithmetic that is exact
everywhere.

A plan is changed only when the step would get faster by more than `GAIN`: shares that follow every tremble
cost locality and gain nothing. Plans are looked at soon after a start, a resize or a change of a rank's
speed, and less and less often while nothing happens. Steps of a few milliseconds are measured several at a
time, so that what measuring, looking and learning cost stays below a per cent of them too; how many, all
ranks tell from the same times.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cra_trainer.allocation.capability import CapabilityTracker
from cra_trainer.allocation.explain import explain
from cra_trainer.allocation.fixed_costs import FixedCosts
from cra_trainer.allocation.shares import Floats, Ints, apportion
from cra_trainer.allocation.stragglers import StragglerWatch
from cra_trainer.allocation.strategies import Allocation, InTurn, Nodes, Strategy

# The first steps of a process measure its warm-up: allocations, autotuning, the reducer's own rebuild. Of
# steps that last `ENOUGH` only the first does.
WARM_UP = 2
# Whole numbers up to this are exact in every floating type that gradients come in, bfloat16 included.
DIGESTS = 256
GAIN = 0.01
# Seconds of steps that make a measurement, for one costs 0.2 ms; more while nothing happens.
POOL = 0.05
# Measurements before the first look at a plan, and between two looks later; one costs 0.3 ms.
SOON, SELDOM = 3, 12
# Seconds of steps that are enough for the first look, however few they are.
ENOUGH = 1.0
# Steps after which a group's shares are taken as they are, if no look was possible.
LATE = 12
# Seconds of steps between two times of learning, for one costs 2 ms, and how many of them are learned from.
LEARN, LEARNED = 2.0, 64
# A rank whose rows change by this part is measured anew.
MOVED = 0.1
# Of the memory that a rank has left, so much may be filled in one go.
FILL = 0.8


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
        self._fixed = FixedCosts(world_size)
        self._stragglers = StragglerWatch(world_size)
        self._slack: Floats = np.zeros(world_size)
        # The most rows that each rank has held, and the part of its memory that this left.
        self._held: Ints = np.zeros(world_size, dtype=np.int64)
        self._room: Floats = np.ones(world_size)
        self._restart()

    @property
    def capability(self) -> Floats:
        """Measured samples per second of each rank; 0 where unknown."""
        return self._tracker.samples_per_second

    @property
    def digest(self) -> int:
        """What this rank tells the others of its pending plan: 0 for none, else 1 to `DIGESTS`."""
        return 0 if self._pending is None else zlib.crc32(self._pending[0].tobytes()) % DIGESTS + 1

    @property
    def stragglers(self) -> NDArray[np.bool_]:
        """Which ranks are slow for good."""
        return self._stragglers.stragglers

    @property
    def settled(self) -> bool:
        """Whether the shares are those that follow from the speeds of this group's ranks."""
        return self._steps >= LATE or (self._looked and self._pending is None)

    def rows(self, total: int, *, after: int = 0) -> Ints:
        """Rows of each rank in a global batch of `total` rows, before which `after` were trained; a smaller
        last batch keeps the plan's proportions.
        """
        if isinstance(self._strategy, InTurn):
            return self._strategy.turns(self._world_size).deal(total, after=after)
        if total == self.batch_size:
            return self._full
        return apportion(self._full, total, lo=0 if total < self._world_size else 1)

    def resize(self, kept: Sequence[int]) -> None:
        """Plan for another group, whose rank i was kept[i] in this one, or is new (-1): all ranks that stay
        know the same, so all come to the same plan; a new rank counts as an average one until it is measured.
        """
        self._world_size = len(kept)
        self._tracker = self._tracker.resized(kept)
        self._fixed = self._fixed.resized(np.asarray(kept))
        self._stragglers = self._stragglers.resized(kept)
        self._slack = np.zeros(len(kept))
        ranks = np.asarray(kept)
        self._held = np.where(ranks >= 0, self._held[ranks], 0)
        self._room = np.where(ranks >= 0, self._room[ranks], 1.0)
        self._restart()

    def _restart(self) -> None:
        """Plan by what is known of the ranks; of how this group does, nothing is."""
        self._steps = self._since = 0
        self._since_seconds, self._looked = 0.0, self._world_size == 1
        self._patience, self._unlearned = SOON, 0.0
        self._forget_steps()
        self._pending: tuple[Ints, Allocation] | None = None
        self._full = self._apportion(np.ones(self._world_size))
        self.allocation = self._strategy.allocate(self._observe_nodes())
        self._full = self._apportion(self.allocation.shares)

    def rebatch(self, batch_size: int) -> None:
        """Plan for another global batch; every rank does so after the same step."""
        if batch_size == self.batch_size:
            return
        self.batch_size, self._pending = batch_size, None
        # In proportion to the whole rows of before: in these the ranks agree, in shares nearly.
        self._full = self._apportion(self._full)
        self._tracker.doubt(slice(None))
        self._forget_steps()
        self._since, self._patience = 0, SOON

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

    def observe(
        self, rows: Ints, seconds: Floats, digests: Floats | None = None, room: Floats | None = None
    ) -> bool:
        """Take in one step's numbers of all ranks, the same on every rank, and plan when it is time.

        Args:
            rows: Rows that each rank trained.
            seconds: Seconds that each rank computed.
            digests: `digest` of each rank when the step was reduced; None where all are 0.
            room: Part of its memory that each rank has had left at its fullest; None where nobody measured.

        Returns:
            Whether the ranks were measured anew.
        """
        if digests is not None and digests.any():
            self._agree(digests)
        self._steps += 1
        if room is not None:
            self._room = room
        # A smaller last batch measures mostly the fixed cost of a step.
        warming = self._steps == 1 or (self._steps <= WARM_UP and seconds.max() < ENOUGH)
        if warming or not rows.all() or rows.sum() != self.batch_size:
            return False
        # NB: this comes between any two steps, when the processor's caches hold gradients: all else can wait.
        self._recent.append((rows, seconds))
        self._pooled += 1
        self._pool_seconds += float(seconds.max())
        if self._pool_seconds < POOL * self._patience / SOON:
            return False
        self._measure()
        return True

    def _measure(self) -> None:
        """Take in the steps since the last measurement."""
        pooled = self._recent[-self._pooled :]
        rows = np.sum([of for of, _ in pooled], axis=0)
        seconds = np.sum([of for _, of in pooled], axis=0)
        self._held = np.maximum(self._held, np.max([of for of, _ in pooled], axis=0))
        changed = self._tracker.update(rows, seconds)
        if changed.any():
            self._patience = SOON
            self._fixed.forget(changed)
        self._fixed.observe(rows / self._pooled, seconds / self._pooled)
        self._stragglers.observe(self._tracker.log_speed, self._pool_seconds)
        self._slack += 0.2 * (1 - seconds / self._pool_seconds - self._slack)
        self._unlearned += self._pool_seconds
        self._since_seconds += self._pool_seconds
        self._empty_pool()
        del self._recent[:-LEARNED]
        self._since += 1
        enough = self._since >= self._patience or (not self._looked and self._since_seconds >= ENOUGH)
        if enough and self._world_size > 1 and self._tracker.known and self._pending is None:
            self._look()

    def _empty_pool(self) -> None:
        self._pooled, self._pool_seconds = 0, 0.0

    def _forget_steps(self) -> None:
        """The steps so far are of another plan."""
        self._recent: list[tuple[Ints, Floats]] = []
        self._empty_pool()

    def _agree(self, digests: Floats) -> None:
        """Adopt the pending plan when all ranks have the same one; forget it when they differ."""
        if self._pending is not None and (digests == self.digest).all():
            before = self._full
            self._full, self.allocation = self._pending
            moved = np.abs(self._full - before) > MOVED * before
            self._tracker.doubt(moved)
            if moved.any():
                self._patience = SOON
            self._forget_steps()
        self._pending = None

    def _look(self) -> None:
        """Propose another plan if one is better."""
        self._looked = True
        self._since, self._patience = 0, min(2 * self._patience, SELDOM)
        nodes = self._observe_nodes()
        if self._unlearned >= LEARN:
            self._learn(nodes)
        allocation = self._strategy.allocate(nodes)
        full = self._apportion(allocation.shares)
        gain = (self._full / allocation.shares).max() / (full / allocation.shares).max() - 1
        if gain > GAIN or (self._full > np.maximum(full, nodes.most * self.batch_size)).any():
            self._pending = full, allocation

    def _learn(self, nodes: Nodes) -> None:
        rows, seconds = (np.stack(of) for of in zip(*self._recent, strict=True))
        fixed = np.minimum(self._fixed.seconds, seconds)
        self._strategy.learn(nodes, (seconds - fixed) / rows * self.batch_size, fixed)
        self._recent.clear()
        self._unlearned = 0.0

    def _observe_nodes(self) -> Nodes:
        n = self._world_size
        known = self._tracker.measured
        log_speed = np.where(known, self._tracker.log_speed, 0.0)
        # Nothing is known against a rank that has not been measured.
        log_speed = np.where(known, log_speed, log_speed[known].mean() if known.any() else 0.0)
        variation = self._tracker.variation
        share = self._full / self.batch_size
        features = (log_speed - log_speed.mean(), variation, self._room, self._slack, np.log(share * n))
        return Nodes(
            capability=np.exp(log_speed),
            features=np.stack(features, axis=1),
            demand=np.array([1.0, np.log(self.batch_size / n) / 10, variation.mean()]),
            # Replicas: each rank holds the whole model and reaches all of the data.
            parameters=np.ones(n),
            data=np.ones(n),
            most=self._most,
        )

    @property
    def _most(self) -> Floats:
        """The largest share that each rank has memory for, 1 where that is not known.

        What was used at the fullest is taken for the rows' alone, which errs on the safe side: a part of the
        room holds at least so many more rows as it is part of what is used. The bound moves up with the rows
        and ends where the memory does.
        """
        used = np.maximum(1 - self._room, 1e-9)
        rows = np.floor(self._held * (1 + FILL * self._room / used))
        limited = (self._room < 1) & (self._held > 0)
        return np.where(limited, np.minimum(np.maximum(rows, 1) / self.batch_size, 1.0), 1.0)

    def explain(self) -> dict[str, Any]:
        """Why each rank has its share: see `cra_trainer.allocation.explain`."""
        nodes = self._observe_nodes()
        return explain(
            nodes,
            self.allocation,
            self._full,
            measured=self.capability,
            stragglers=self.stragglers,
            matrices=self._strategy.matrices(nodes),
            advantage=self._strategy.advantage,
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
