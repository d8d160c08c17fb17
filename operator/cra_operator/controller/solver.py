"""The exact best use of the GPUs: a multiple-choice knapsack over jobs and sizes.

    maximise  sum_j value[j, choice_j]
    so that   sum_{j: kind = t} gpus[choice_j] <= capacity[t]   for each type t

Solved by dynamic programming over the GPUs that are left, job after job (Kellerer, Pferschy and Pisinger,
*Knapsack Problems*, 2004, section 11.5). With one type a table row is as long as the cluster has GPUs; with
several, a row is a box with one axis per type, which is why the cost grows with the product of the types'
capacities: fine for a few hundred GPUs of three types, not for thousands.

Rows hold the best value of the jobs so far *within* so many GPUs. Choices are read off backwards afterwards,
which spares a second table. Where several answers are equally good, the earlier column wins.

With one type most columns are ruled out first, as in Dyer, Kayal and Walsh (*A branch and bound algorithm for
solving the multiple-choice knapsack problem*, 1984). At a price of p for each GPU no choice is worth more
than

    bound(p) = p * capacity + sum_j max_k (value[j, k] - p * gpus[k])

so a column whose own bound is below what a known choice is worth is in no best choice. With a thousand jobs
one or two columns are left for each, and many jobs are settled.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cra_operator.controller.policy import Floats, Ints, Sizes

_BISECTIONS = 40
_SLACK = 1e-9


def solve(value: Floats, sizes: Sizes, capacity: Ints) -> Ints:
    """The choice of sizes with the largest sum of values.

    Args:
        value: What each size is worth to each job, [J, K]; -inf where it must not be.
        sizes: The columns.
        capacity: GPUs by type, [T].

    Returns:
        A column for each job, [J].

    Raises:
        ValueError: No choice fits, because some jobs may not be left without GPUs.
    """
    # Large clusters offer many sizes that no job may have yet.
    used: NDArray[np.bool_] = np.isfinite(value.max(axis=0, initial=-np.inf))
    used[0] = True
    if not used.all():
        columns = np.flatnonzero(used)
        kept = Sizes(gpus=sizes.gpus[columns], nodes=sizes.nodes[columns], kind=sizes.kind[columns])
        return columns[solve(value[:, columns], kept, capacity)]
    open_ = _promising(value, sizes.gpus, int(capacity[0])) if len(capacity) == 1 else np.isfinite(value)
    choice: Ints = np.argmax(open_, axis=1)
    settled = open_.sum(axis=1) == 1
    spent = np.bincount(sizes.kind[choice[settled]], sizes.gpus[choice[settled]], len(capacity))
    left = [int(gpus) for gpus in capacity - spent]
    if min(left) < 0 or not open_.any(axis=1).all():
        raise ValueError("no choice of sizes fits the cluster")
    rest = np.where(open_[~settled], value[~settled], -np.inf)
    choice[~settled] = _by_table(rest, sizes, left)
    return choice


def _promising(value: Floats, gpus: Ints, capacity: int) -> NDArray[np.bool_]:
    """The columns that may be in a best choice, [J, K]: their bound is not below a choice found here."""
    finite = np.isfinite(value)
    rows = np.arange(len(value))

    def at(price: float) -> tuple[Floats, Ints]:
        """Each column's worth at a price, and the best column of each job."""
        net: Floats = value - price * gpus
        return net, np.argmax(net, axis=1)

    low, high = 0.0, 1.0
    while gpus[at(high)[1]].sum() > capacity:
        low, high = high, 4 * high
        if high > 1e12:
            return finite
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if gpus[at(middle)[1]].sum() > capacity:
            low = middle
        else:
            high = middle
    net, choice = at(high)
    best = net[rows, choice]
    if not np.isfinite(best).all():
        return finite
    bound = high * capacity + best.sum()
    # The choice at that price, with what is left over given to whom it helps most.
    choice = choice.copy()
    while True:
        free = capacity - gpus[choice].sum()
        gain = np.where(gpus - gpus[choice][:, None] <= free, value - value[rows, choice][:, None], -np.inf)
        j, k = np.unravel_index(np.argmax(gain), gain.shape)
        if not gain[j, k] > 0:
            break
        choice[j] = k
    known = value[rows, choice].sum()
    near: NDArray[np.bool_] = bound - best[:, None] + net >= known - _SLACK * (1 + abs(bound))
    return finite & near


def _by_table(value: Floats, sizes: Sizes, capacity: list[int]) -> Ints:
    """`solve` by dynamic programming over all columns."""
    jobs = len(value)
    box = tuple(gpus + 1 for gpus in capacity)
    table = np.empty((jobs + 1, *box))
    table[0] = 0.0
    columns = [_worthwhile(value[j], sizes) for j in range(jobs)]
    scratch = np.empty(box)
    for j in range(jobs):
        before, after = table[j], table[j + 1]
        after.fill(-np.inf)
        for k in columns[j]:
            left, used = _shifted(int(sizes.kind[k]), int(sizes.gpus[k]), len(box))
            into, candidate = after[used], scratch[used]
            if into.size:
                np.add(before[left], value[j, k], out=candidate)
                np.maximum(into, candidate, out=into)
    at = list(capacity)
    if table[jobs][tuple(at)] == -np.inf:
        raise ValueError("no choice of sizes fits the cluster")
    choice = np.zeros(jobs, dtype=np.int64)
    for j in range(jobs - 1, -1, -1):
        goal = table[j + 1][tuple(at)]
        for k in columns[j]:
            kind, gpus = int(sizes.kind[k]), int(sizes.gpus[k])
            if gpus > at[kind]:
                continue
            at[kind] -= gpus
            if table[j][tuple(at)] + value[j, k] == goal:
                choice[j] = k
                break
            at[kind] += gpus
    return choice


def _worthwhile(value: Floats, sizes: Sizes) -> list[int]:
    """The columns that no other column beats with as few GPUs of the same type."""
    best: dict[int, float] = {}
    kept = []
    finite = np.flatnonzero(np.isfinite(value))
    for k in finite[np.lexsort((-value[finite], sizes.gpus[finite]))].tolist():
        kind = int(sizes.kind[k])
        # No GPUs at all compete with every type.
        rivals = max(best.get(kind, -np.inf), best.get(-1, -np.inf))
        if value[k] > rivals:
            kept.append(k)
            best[-1 if sizes.gpus[k] == 0 else kind] = float(value[k])
    return sorted(kept)


def _shifted(kind: int, gpus: int, types: int) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Where a box must be read and written so that one size is taken off its type's axis."""
    whole = slice(None)
    left = tuple(slice(None, -gpus or None) if axis == kind else whole for axis in range(types))
    used = tuple(slice(gpus, None) if axis == kind else whole for axis in range(types))
    return left, used
