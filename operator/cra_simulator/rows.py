"""The memory of a simulation: what changes about active jobs, one row each, in order of submission."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cra_operator.controller.policy import Floats, Ints


@dataclass(slots=True)
class Rows:
    """Arrays of one length, [J]; those with a second axis come last. Times are in seconds.

    Attributes:
        index: Which job of the workload.
        table: Its rate table.
        running: Row of the true rates by which it runs; -1 if it does not.
        gpus: GPUs that it has.
        epoch: Epoch that it is in.
        progress: Progress so far.
        remaining: Progress still to make.
        steps_left: Optimizer steps still to make.
        pause_left: Time until it goes on after a change.
        submitted: Time of its submission.
        age: Time since then.
        attained: GPU-seconds it has held.
        limit: Most GPUs that it may be given now.
        most: Most GPUs that it can ever use.
        current: Its size, as a column.
        starts: How often it was given other GPUs than before.
        restarts: The same without the first time.
        restart_seconds: What a change costs it.
        request: The size that was asked for, as a column.
        priority: Larger goes first.
        finished: Time at which it ended; 0 before.
        turned: 1 if it began an epoch in the last tick.
        rate: Progress/s at each size in this epoch, [J, K].
        throughput: Optimizer steps/s at each size, [J, K].
        held: GPUs on each node, [J, M].
    """

    index: Ints
    table: Ints
    running: Ints
    gpus: Ints
    epoch: Ints
    progress: Floats
    remaining: Floats
    steps_left: Floats
    pause_left: Floats
    submitted: Floats
    age: Floats
    attained: Floats
    limit: Ints
    most: Ints
    current: Ints
    starts: Ints
    restarts: Ints
    restart_seconds: Floats
    request: Ints
    priority: Floats
    finished: Floats
    turned: Ints
    rate: Floats
    throughput: Floats
    held: Ints

    def first(self, count: int) -> Rows:
        """Views of the first rows."""
        return Rows(*[getattr(self, name)[:count] for name in _FIELDS])


_FIELDS = tuple(field.name for field in fields(Rows))


class Store:
    """The memory of the rows. Numbers of one kind lie in one block, so that rows move together."""

    def __init__(self, jobs: int, sizes: int, nodes: int) -> None:
        wide = {"rate": sizes, "throughput": sizes, "held": nodes}
        floats = [field.name for field in fields(Rows) if field.type == "Floats" and field.name not in wide]
        whole = [field.name for field in fields(Rows) if field.type == "Ints" and field.name not in wide]
        numbers = np.zeros((len(floats), jobs))
        counts = np.zeros((len(whole), jobs), dtype=np.int64)
        tables = {"rate": np.zeros((jobs, sizes)), "throughput": np.zeros((jobs, sizes))}
        held = np.zeros((jobs, nodes), dtype=np.int64)
        self._blocks: list[NDArray[Any]] = [numbers.T, counts.T, *tables.values(), held]
        arrays: dict[str, Any] = {
            **dict(zip(floats, numbers, strict=True)),
            **dict(zip(whole, counts, strict=True)),
            **tables,
            "held": held,
        }
        self.rows = Rows(**arrays)

    def keep(self, rows: Ints, count: int) -> None:
        """Of the first `count` rows move the given ones to the front; the others become zero."""
        for block in self._blocks:
            block[: len(rows)] = block[rows]
            block[len(rows) : count] = 0
