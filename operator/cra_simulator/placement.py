"""Which GPUs a job gets once its size is decided. Jobs whose size stays keep their GPUs where that is
possible.

Two ways, each a compiled kernel over `held`, the GPUs of each job on each node, [J, M]:

- `pack`: parts of nodes go where they fit best, larger jobs take whole nodes. Sizes are powers of two inside
  a node or whole nodes, so there is always room once the sum fits; small jobs are moved where it is
  scattered, as few as possible.
- `spread`: any size, taken from the freest nodes first, and nobody is moved. That is how the Pollux artifact
  places Tiresias and Optimus.
"""

from __future__ import annotations

import numpy as np

from cra_operator.controller.policy import Ints
from cra_simulator.compiled import kernel


@kernel
def _largest_part(column: Ints, gpus: Ints, below: int) -> int:
    """Of the jobs with fewer than `below` GPUs, all on this node, the one with most; -1 if there is none."""
    found = -1
    for i in range(len(column)):
        if 0 < column[i] < below and column[i] == gpus[i] and (found < 0 or column[i] > column[found]):
            found = i
    return found


@kernel
def _moves(column: Ints, gpus: Ints, free: int, part: int) -> int:
    """How many small jobs must leave a node until `part` of its GPUs are free; -1 if that cannot be."""
    left = column.copy()
    moves = 0
    while free < part:
        out = _largest_part(left, gpus, part)
        if out < 0:
            return -1
        free += left[out]
        left[out] = 0
        moves += 1
    return moves


@kernel
def pack(held: Ints, gpus: Ints, kind: Ints, changed: Ints, node_gpus: Ints, node_kind: Ints) -> bool:
    """Place jobs on packed nodes, the largest first.

    Args:
        held: GPUs of each job on each node, [J, M]; changed in place.
        gpus: GPUs that each job shall have, [J].
        kind: Their type, [J].
        changed: 1 for jobs to be placed anew, [J]; set to 1 for those that had to move, too.
        node_gpus: GPUs of each node, [M].
        node_kind: Their type, [M].

    Returns:
        Whether all found room.
    """
    jobs, nodes = held.shape
    free = node_gpus.copy()
    waiting = np.zeros(jobs, dtype=np.int64)
    for j in range(jobs):
        if changed[j]:
            held[j, :] = 0
            waiting[j] = gpus[j]
        else:
            free -= held[j]
    while True:
        j = int(np.argmax(waiting))
        need = waiting[j]
        waiting[j] = 0
        if need == 0:
            return True
        while need > 0:
            # The tightest fit; where nothing fits, the node with the fewest jobs to move.
            best, fewest = -1, jobs
            for m in range(nodes):
                if node_kind[m] == kind[j] and held[j, m] == 0:
                    moves = _moves(held[:, m], gpus, free[m], min(need, node_gpus[m]))
                    if moves >= 0 and (best < 0 or (moves, free[m]) < (fewest, free[best])):
                        best, fewest = m, moves
            if best < 0:
                return False
            part = min(need, node_gpus[best])
            while free[best] < part:
                out = _largest_part(held[:, best], gpus, part)
                free[best] += held[out, best]
                held[out, best] = 0
                changed[out] = 1
                waiting[out] = gpus[out]
            held[j, best] = part
            free[best] -= part
            need -= part


@kernel
def spread(
    held: Ints, gpus: Ints, kind: Ints, changed: Ints, node_gpus: Ints, node_kind: Ints, order: Ints
) -> bool:
    """Place jobs in the given order, each on the nodes that are freest, the first such node where several
    are.

    Args:
        held: GPUs of each job on each node, [J, M]; changed in place.
        gpus: GPUs that each job shall have, [J].
        kind: Their type, [J].
        changed: 1 for jobs to be placed anew, [J].
        node_gpus: GPUs of each node, [M].
        node_kind: Their type, [M].
        order: Rows of jobs, first come, first placed, [J].

    Returns:
        Whether all found room.
    """
    free = node_gpus.copy()
    for j in range(len(held)):
        if changed[j]:
            held[j, :] = 0
        else:
            free -= held[j]
    for j in order:
        need = gpus[j] if changed[j] else 0
        while need > 0:
            best = -1
            for m in range(len(free)):
                if node_kind[m] == kind[j] and free[m] > 0 and (best < 0 or free[m] > free[best]):
                    best = m
            if best < 0:
                return False
            part = min(need, free[best])
            held[j, best] = part
            free[best] -= part
            need -= part
    return True
