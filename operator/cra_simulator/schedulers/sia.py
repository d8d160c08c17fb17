"""Sia: goodput on mixed types of GPU by an integer program (Jayaram Subramanya et al., SOSP'23).

Each job has one goodput per size of each type, divided by that of its smallest feasible entry (section 3.4,
equations 1 to 4). One binary program chooses at most one size for each job:

    minimise  sum_j sum_k A[j,k] * (f_jk * G[j,k])^p  +  lambda * sum_j (1 - sum_k A[j,k])

with p = -0.5 and lambda = 1.1. f is 1 for the size that the job has and max(age - restarts * R, 0) / (age +
R) elsewhere, R the seconds of a restart; 1 while the job is younger than R. Powers are rounded to two
decimals and a job in the middle of a restart keeps its size, as in the artifact (siasosp23/artifacts). The
program is a multiple-choice knapsack: where the product of the types' capacities is small the exact solver of
the operator takes a tenth of the time of HiGHS, which solves the others. Answers that are equally good, which
rounding makes frequent, may differ between the two.

Knows goodput at each size of each type. Does not use remaining work.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array

from cra_operator.controller.policy import ClusterObservation, Decision, Floats, Ints, Sizes
from cra_operator.controller.solver import solve

POWER = -0.5
UNSERVED = 1.1
_LARGEST_TABLE = 50_000

Program = Callable[[Floats, Sizes, Ints], Ints]
"""From the worth of each size to each job, [J, K], and the capacity to a column for each job."""


def highs(value: Floats, sizes: Sizes, capacity: Ints) -> Ints:
    """`cra_operator.controller.solver.solve` as a binary program for HiGHS; for clusters of any size.

    Raises:
        ValueError: No choice fits.
    """
    job, size = np.nonzero(np.isfinite(value))
    cells = np.arange(len(job))
    ones = csr_array((np.ones(len(job)), (job, cells)), shape=(len(value), len(job)))
    used = csr_array((sizes.gpus[size], (sizes.kind[size], cells)), shape=(len(capacity), len(job)))
    solved = milp(
        -value[job, size],
        integrality=np.ones(len(job)),
        bounds=Bounds(0, 1),
        constraints=[LinearConstraint(ones, 1, 1), LinearConstraint(used, -np.inf, capacity)],
        options={"mip_rel_gap": 0.0},
    )
    if solved.x is None:
        raise ValueError(f"no choice of sizes fits the cluster: {solved.message}")
    chosen = solved.x > 0.5
    choice = np.zeros(len(value), dtype=np.int64)
    choice[job[chosen]] = size[chosen]
    return choice


def fastest(value: Floats, sizes: Sizes, capacity: Ints) -> Ints:
    """Whichever of the two solvers suits the cluster; same arguments, answer and error."""
    by_table = np.prod(capacity + 1.0) <= _LARGEST_TABLE
    return solve(value, sizes, capacity) if by_table else highs(value, sizes, capacity)


class Sia:
    """The integer program.

    Args:
        program: Who solves it.
    """

    def __init__(self, *, program: Program = fastest) -> None:
        self._program = program

    def decide(self, seen: ClusterObservation) -> Decision:
        """See `Policy.decide`."""
        return Decision(choice=self._program(worth(seen), seen.sizes, seen.capacity))


def worth(seen: ClusterObservation) -> Floats:
    """Minus the program's cost of each size for each job, [J, K]; -inf where it must not be."""
    allowed = seen.allowed()
    allowed[:, 0] = False
    smallest = np.where(allowed, seen.sizes.gpus, np.inf).argmin(axis=1)
    rows = np.arange(len(seen))
    age, restart = seen.age, seen.restart_seconds
    stays = np.maximum(age - seen.restarts * restart, 0.0) / (age + restart)
    moved = np.where(age < restart, 1.0, stays)[:, None]
    factor = np.where(np.arange(len(seen.sizes)) == seen.current[:, None], 1.0, moved)
    with np.errstate(divide="ignore", invalid="ignore"):
        cost = np.round((factor * seen.rate / seen.rate[rows, smallest][:, None]) ** POWER, 2)
    value = np.where(allowed & np.isfinite(cost), -cost, -np.inf)
    value[:, 0] = -UNSERVED
    busy = np.flatnonzero((seen.pause_left > 0) & (seen.current > 0))
    kept = value[busy, seen.current[busy]]
    value[busy] = -np.inf
    value[busy, seen.current[busy]] = np.where(np.isfinite(kept), kept, 0.0)
    return value
