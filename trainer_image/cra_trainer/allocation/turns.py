"""Units that are dealt out one at a time, in turn: fair over time even where they do not divide evenly.

A batch of 100 rows on 3 ranks leaves one row over, and rounding gives it to the same rank every time. Here
the turn goes on from batch to batch instead, as cards are dealt, so after any number of batches two nodes of
equal priority have had the same number of units, but for one. A node of priority w gets w turns in a round;
they are spread over the round by the smooth weighted round robin of nginx: each time every node gains its
priority, the richest takes the turn and pays a whole round for it.

Which unit is whose follows from its number alone. So nothing has to be kept or agreed upon.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cra_trainer.allocation.shares import Ints


class Turns:
    """The endless order of turns of n nodes.

    Args:
        priorities: Turns of each node in a round, whole numbers of at least 1.

    Raises:
        ValueError: A priority is something else.
    """

    def __init__(self, priorities: Sequence[float]) -> None:
        if not priorities or any(p < 1 or p != int(p) for p in priorities):
            raise ValueError(f"priorities: expected whole numbers of at least 1, got {list(priorities)}")
        self.priorities: Ints = np.array(priorities, dtype=np.int64)
        length, n = int(self.priorities.sum()), len(priorities)
        # Units of each node among the first k of a round, [length + 1, n].
        self._until: Ints = np.zeros((length + 1, n), dtype=np.int64)
        credit = np.zeros(n, dtype=np.int64)
        for turn in range(length):
            credit += self.priorities
            taker = int(credit.argmax())
            credit[taker] -= length
            self._until[turn + 1] = self._until[turn]
            self._until[turn + 1, taker] += 1

    def deal(self, total: int, *, after: int) -> Ints:
        """Units of each node among `total`, when `after` units have been dealt before."""
        return self._dealt(after + total) - self._dealt(after)

    def _dealt(self, units: int) -> Ints:
        rounds, rest = divmod(units, len(self._until) - 1)
        return np.asarray(rounds * self.priorities + self._until[rest])
