"""Workloads and tables small enough to follow by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from cra_operator.controller.policy import ClusterObservation, Decision, Sizes
from cra_simulator.cluster import Cluster, NodePool
from cra_simulator.rates import RateTable, RateTables
from cra_simulator.workload import TraceJob

CLUSTER = Cluster((NodePool(kind="t4", nodes=2, gpus=4),))
SIZES = CLUSTER.packed_sizes()


def linear(*ends: float, sizes: Sizes = SIZES, max_gpus: int = 8) -> RateTable:
    """One step a second for each GPU; epochs end at the given progress."""
    rate = np.where(sizes.gpus <= max_gpus, sizes.gpus, 0).astype(float)
    return RateTable(progress=np.array(ends), rate=np.tile(rate, (len(ends), 1)), max_gpus=max_gpus)


def rates(**tables: RateTable) -> RateTables:
    return RateTables(sizes=SIZES, tables=tables)


def jobs(*submitted: float, application: str = "app", **other: int) -> tuple[TraceJob, ...]:
    return tuple(
        TraceJob(name=f"job-{i}", submitted=at, application=application, **other)
        for i, at in enumerate(submitted)
    )


class Script:
    """A policy that says what it is told, decision by decision; GPUs by job id."""

    def __init__(
        self, *turns: Sequence[int], look: Callable[[ClusterObservation], None] | None = None
    ) -> None:
        self._turns = list(turns)
        self._look = look

    def decide(self, seen: ClusterObservation) -> Decision:
        if self._look is not None:
            self._look(seen)
        gpus = self._turns.pop(0) if len(self._turns) > 1 else self._turns[0]
        first = {int(count): int(np.argmax(seen.sizes.gpus == count)) for count in seen.sizes.gpus}
        return Decision(choice=np.array([first[gpus[job]] for job in seen.ids]))
