"""What a policy sees, what it says, and nothing else: the same types in the operator and in the simulator.

A policy answers one question, again and again: which job should have how many GPUs now? It sees the whole
cluster as arrays, one row per job, and names for each job one of the *sizes on offer*. It does not know of
pods, of nodes or of where its numbers come from, so a policy that was measured in the simulator is the one
that runs.

Sizes are columns: `sizes.gpus[k]` GPUs of type `sizes.kind[k]`. Column 0 is always "no GPUs". What a job
would do at each size is a row of `rate`, its goodput there: progress per second, where progress counts
optimizer steps of the job's own reference batch (Pollux, OSDI'21, section 3.1). Jobs stand in order of
submission.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Sizes:
    """The sizes that a job may be given.

    Attributes:
        gpus: GPUs of each size, [K]; gpus[0] = 0.
        nodes: Nodes over which they spread when packed, [K].
        kind: Index of their GPU type, [K]; 0 for size 0.
    """

    gpus: Ints
    nodes: Ints
    kind: Ints

    def __post_init__(self) -> None:
        if not len(self.gpus) == len(self.nodes) == len(self.kind):
            raise ValueError("sizes: gpus, nodes and kind must be of one length")
        if len(self.gpus) == 0 or self.gpus[0] != 0 or (self.gpus[1:] <= 0).any():
            raise ValueError("sizes.gpus must begin with 0 and be positive from there on")

    def __len__(self) -> int:
        return len(self.gpus)


@dataclass(frozen=True, kw_only=True, slots=True)
class ClusterObservation:
    """All unfinished jobs at one moment. J jobs, K sizes, T types of GPU.

    NB: the arrays may be views of live state. They hold until the policy returns; who keeps one copies it.

    Attributes:
        time: Seconds since the clock began.
        capacity: GPUs in the cluster by type, [T].
        node_gpus: GPUs of one node by type, [T].
        sizes: The sizes on offer.
        ids: One number per job that no other job ever has, rising with submission, [J].
        rate: Goodput in progress/s at each size, [J, K]; 0 where the job cannot run.
        throughput: Optimizer steps/s at each size at the job's own batch, [J, K].
        remaining: Progress until the job is done, [J]; NaN for jobs that declare no end.
        steps_left: Optimizer steps until the job is done, [J]; NaN for jobs that declare no end.
        age: Seconds since submission, [J].
        attained: GPU-seconds held so far, [J].
        restarts: How often a job changed its GPUs after the first start, [J].
        restart_seconds: What a change costs, in seconds without progress, [J].
        pause_left: Seconds that the change in progress will still take, [J].
        current: The size that the job has, as a column, [J].
        limit: Most GPUs that the job may be given now, [J]: twice the most it has run on, 1 at first.
        request: The size that its owner asked for, as a column, [J]; 0 for none.
        priority: Larger goes first, [J].
        reward: What the job gets out of its present size, [J], over that of one busy worker
            (`controller.reward`); 0 while it waits, NaN where it is not known. None where nobody measures it.
    """

    time: float
    capacity: Ints
    node_gpus: Ints
    sizes: Sizes
    ids: Ints
    rate: Floats
    throughput: Floats
    remaining: Floats
    steps_left: Floats
    age: Floats
    attained: Floats
    restarts: Ints
    restart_seconds: Floats
    pause_left: Floats
    current: Ints
    limit: Ints
    request: Ints
    priority: Floats
    reward: Floats | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def allowed(self) -> NDArray[np.bool_]:
        """Sizes that each job may be given, [J, K]: none, or it runs there and its limit admits it."""
        fits: NDArray[np.bool_] = (self.rate > 0) & (self.sizes.gpus <= self.limit[:, None])
        fits[:, 0] = True
        return fits


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """What each job should have.

    Attributes:
        choice: A column of the sizes for each job, [J].
        order: Rows of jobs, those to be placed first in front; None if it is all the same.
        weight: The attention that each job got, [J], summing to 1; None from policies that give none.
    """

    choice: Ints
    order: Ints | None = None
    weight: Floats | None = None


class Policy(Protocol):
    """Decides sizes. An instance may remember what it saw, so each run has its own."""

    def decide(self, seen: ClusterObservation) -> Decision:
        """Name a size for every job so that each type's GPUs suffice."""
