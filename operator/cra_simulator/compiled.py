"""Compiled kernels: what runs once a tick for every job, and the exact solver as the simulator calls it.

Numba keeps what it compiled beside the source, or in the user's cache where that cannot be written, so only
the first run after a change waits for the compiler.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, cast

import numba
import numpy as np

from cra_operator.controller.policy import Floats, Ints

_Function = TypeVar("_Function", bound=Callable[..., object])


def kernel(function: _Function) -> _Function:
    """Compile a function of numbers and arrays; it is called as before."""
    return cast(_Function, numba.njit(cache=True)(function))


@kernel
def knapsack(value: Floats, gpus: Ints, capacity: int) -> Ints:
    """`cra_operator.controller.solver.solve` for one type of GPU, with the same answers.

    Args:
        value: What each size is worth to each job, [J, K]; -inf where it must not be.
        gpus: GPUs of each size, [K], rising.
        capacity: GPUs in all.

    Returns:
        A column for each job, [J]; all -1 when nothing fits.
    """
    jobs, columns = value.shape
    table = np.empty((jobs + 1, capacity + 1))
    table[0, :] = 0.0
    for j in range(jobs):
        table[j + 1, :] = -np.inf
        best = -np.inf
        for k in range(columns):
            worth, need = value[j, k], gpus[k]
            # A size that is worth no more than a smaller one is never needed.
            if worth > best:
                best = worth
                for c in range(need, capacity + 1):
                    # A maximum, not a branch: compilers make vector instructions of it.
                    table[j + 1, c] = max(table[j + 1, c], table[j, c - need] + worth)
    choice = np.full(jobs, -1, dtype=np.int64)
    if table[jobs, capacity] == -np.inf:
        return choice
    c = capacity
    for j in range(jobs - 1, -1, -1):
        for k in range(columns):
            need = gpus[k]
            if need <= c and table[j, c - need] + value[j, k] == table[j + 1, c]:
                choice[j] = k
                c -= need
                break
    return choice
