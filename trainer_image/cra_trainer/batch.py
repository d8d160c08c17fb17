"""The batch that a script holds: this rank's rows of a global batch, in one piece or in several.

A rank whose rows do not fit its memory at once gets them in pieces (micro-batches) and adds their gradients
up. Ranks with more rows have more pieces. Each piece's loss is weighed such that the sum over all pieces of
all ranks is the loss of one process on the whole batch; only the last piece is reduced.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from cra_trainer.allocation.shares import Ints
from cra_trainer.data import Cursor


@dataclass(kw_only=True)
class Batch:
    """A batch under way.

    Attributes:
        rows: Rows of each rank.
        rank: This one.
        total: Rows of all.
        after: The cursor behind it.
        started: When it began.
        largest: Most rows of a piece; None for all at once.
        alike: Whether all ranks have as many pieces, of which some may be empty then.
        piece: Number of the piece that the script holds.
        backed: Whether that piece's backward pass is done.
    """

    rows: Ints
    rank: int
    total: int
    after: Cursor
    started: float
    largest: int | None = None
    alike: bool = False
    piece: int = 0
    backed: bool = False
    sizes: list[int] = field(init=False)

    def __post_init__(self) -> None:
        mine = self.mine
        most = int(self.rows.max()) if self.alike else mine
        count = -(-most // self.largest) if self.largest and most else 1
        if count == 1:
            self.sizes = [mine]
            return
        # Nearly equal ones, so that none is so small that it costs more than it is worth.
        self.sizes = [len(part) for part in np.array_split(np.arange(mine), count)]

    @property
    def mine(self) -> int:
        """This rank's rows."""
        return int(self.rows[self.rank])

    @property
    def size(self) -> int:
        """Rows of the piece that the script holds; it may hold one that counts for nothing."""
        return self.sizes[self.piece]

    @property
    def last(self) -> bool:
        """Whether the script holds the last piece."""
        return self.piece == len(self.sizes) - 1

    @property
    def slot(self) -> tuple[Ints, int]:
        """The piece, as the part of one among others: (rows of each, which one)."""
        if len(self.sizes) == 1:
            return self.rows, self.rank
        before = int(self.rows[: self.rank].sum()) + sum(self.sizes[: self.piece])
        return np.array([before, self.size]), 1

    def weigh(self, loss: Tensor, count: float | None) -> Tensor:
        """The piece's part of what the mean over the ranks shall be: the loss of the global batch.

        Args:
            loss: The mean loss over the piece's rows, [], or each row's, [rows]; with `count` the sum over
                so many terms.
            count: Terms in the loss. Their number in the whole batch is known after the reduction only, so
                until then the sum is divided by the rows.

        Raises:
            ValueError: The loss has another shape.
        """
        size = self.size
        expected = max(size, 1)
        if count is not None and loss.ndim:
            raise ValueError(f"expected the sum of the losses beside count, got shape {list(loss.shape)}")
        if loss.ndim > 1 or (loss.ndim == 1 and len(loss) != expected):
            raise ValueError(
                f"expected one mean loss or {expected} losses, one per row, got shape {list(loss.shape)}"
            )
        one = bool(size) if loss.ndim or count is not None else size
        weight = len(self.rows) * one / self.total
        return loss.sum() * weight if loss.ndim else loss * weight
