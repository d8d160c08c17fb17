"""What the ranks tell each other in every step: what stands in the table that `cra_trainer.parallel` reduces,
and what follows from it. Row i is what rank i told.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt
from torch import Tensor

from cra_trainer.allocation.shares import Floats, Ints
from cra_trainer.noise import Gradients


class Column(IntEnum):
    """What each rank tells all others in every step."""

    SECONDS = 0  # of computing this step, up to the last gradient
    LOSS = 1  # what the mean over the ranks is the global mean loss of
    LEAVING = 2  # 1 when it was asked to leave
    CHANGE = 3  # 1 when newcomers wait to be taken in
    DIGEST = 4  # of its pending plan
    PERIOD = 5  # of the last step, in seconds, from its predecessor's end; 0 if there was more to it
    OWN = 6  # of the last step's gradients, if they were measured: its own part's norm, weighted
    WHOLE = 7  # and that of all
    COST = 8  # of that measurement, in steps
    COUNT = 9  # terms of its part of the loss, if these are counted
    ROOM = 10  # part of its memory that it has had left at its fullest
    SAVE = 11  # 1 when all are to save, where all have a part of the state


@dataclass(frozen=True, kw_only=True)
class Last:
    """What is told of the last step in the table of the next one.

    Attributes:
        rows: Its global batch.
        period: Its duration; 0 where that is not known.
        norms: What `Probe` measured, and of how many parts and rows that is.
    """

    rows: int = 0
    period: float = 0.0
    norms: Tensor | None = None
    of: tuple[int, int] | None = None
    cost: float = 0.0


@dataclass(frozen=True, kw_only=True)
class StepReport:
    """A reduced step: what all ranks told, and how this one's time was spent.

    Most of it nobody asks for in most steps, and what is computed between two steps finds its memory cold:
    so the answers are made when they are asked for.

    Attributes:
        rows: The rows that `seconds` were spent on, [world_size].
        trained: Those of this step.
        table: What each rank told, [world_size, columns].
        before: What this rank told of the step before.
    """

    rows: Ints
    trained: Ints
    table: Floats
    before: Last
    compute_seconds: float
    communication_seconds: float

    @property
    def total(self) -> int:
        """Rows of the step's global batch."""
        return int(self.trained.sum())

    @property
    def seconds(self) -> Floats:
        """What each rank computed for."""
        return self.table[:, Column.SECONDS]

    @property
    def loss(self) -> float:
        """The global mean loss."""
        terms = float(self.table[:, Column.COUNT].sum())
        return float(self.table[:, Column.LOSS].mean()) * (self.total / terms if terms else 1.0)

    @property
    def calls(self) -> bool:
        """Whether anything was told that ranks must act on together."""
        return bool(self.table[:, Column.LEAVING : Column.DIGEST + 1].any())

    @property
    def leaving(self) -> npt.NDArray[np.bool_]:
        """Whether each rank wants to leave after this step."""
        return np.asarray(self.table[:, Column.LEAVING] > 0)

    @property
    def change(self) -> bool:
        """Whether newcomers wait to be taken in after it."""
        return bool(self.table[:, Column.CHANGE].any())

    @property
    def digests(self) -> Floats:
        """Of each rank's pending plan."""
        return self.table[:, Column.DIGEST].round()

    @property
    def room(self) -> Floats:
        """The part of its memory that each rank has had left."""
        return self.table[:, Column.ROOM]

    @property
    def took(self) -> tuple[int, float] | None:
        """Rows of the step before and the seconds that all of it took; None where that is not known."""
        period = float(self.table[0, Column.PERIOD])
        return (self.before.rows, period) if period > 0 else None

    @property
    def gradients(self) -> Gradients | None:
        """What was measured of the gradients of the step before."""
        if self.before.of is None:
            return None
        parts, rows = self.before.of
        # Python's sum adds in one order on every machine.
        local = sum(float(norm) * float(norm) for norm in self.table[:, Column.OWN])
        whole = float(self.table[0, Column.WHOLE])
        return Gradients(parts=parts, rows=rows, local=local, whole=whole * whole)

    @property
    def measuring_cost(self) -> float:
        """Time that it took, in steps, where it took most."""
        return float(self.table[:, Column.COST].max())
