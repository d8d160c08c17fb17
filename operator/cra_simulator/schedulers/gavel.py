"""Gavel: fractions of time on each type of GPU, from a linear program (Narayanan et al., OSDI'20).

Max-sum-throughput (section 4.1, with throughputs normalised as in section 4.2): with X[j, t] the fraction of
time that job j spends on type t,

    maximise  sum_{j,t} X[j,t] * throughput[j,t] / throughput[j, slowest type]
    so that   sum_t X[j,t] <= 1,   sum_j gpus_j * X[j,t] <= capacity_t,   X >= 0

and rounds of six minutes realise X: each round GPUs go in order of X[j,t] over the share of rounds that j has
had on t (section 5). Sizes and batches are those that the owners asked for.

Knows throughput at the requested size on each type. Neither resizes nor uses remaining work.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import linprog
from scipy.sparse import csr_array

from cra_operator.controller.policies.rigid import requested
from cra_operator.controller.policy import ClusterObservation, Decision, Floats, Ints


class Gavel:
    """Rounds after a linear program.

    Args:
        round_seconds: How long a round is; between rounds only GPUs that came free are given away.
    """

    def __init__(self, *, round_seconds: float = 360.0) -> None:
        self._round = round_seconds
        self._next = 0.0
        self._had: dict[int, Floats] = {}
        self._rounds: dict[int, int] = {}

    def decide(self, seen: ClusterObservation) -> Decision:
        """See `Policy.decide`."""
        if seen.time < self._next:
            return Decision(choice=seen.current.copy())
        self._next = seen.time + self._round
        column = _columns(seen)
        fraction = fractions(seen, column)
        types = len(seen.capacity)
        ids = seen.ids.tolist()
        self._had = {job: self._had.get(job, np.zeros(types)) for job in ids}
        self._rounds = {job: self._rounds.get(job, 0) + 1 for job in ids}
        had = np.array([self._had[job] / self._rounds[job] for job in ids])
        # A job that has had nothing of its fraction goes before all that have had some.
        urgency = np.where(fraction > 1e-6, fraction / np.maximum(had, 1e-6), 0.0)
        choice = np.zeros(len(seen), dtype=np.int64)
        free = seen.capacity.copy()
        for flat in np.argsort(-urgency, axis=None, kind="stable"):
            j, kind = divmod(int(flat), types)
            gpus = seen.sizes.gpus[column[j, kind]]
            if urgency[j, kind] > 0 and choice[j] == 0 and 0 < gpus <= free[kind]:
                choice[j] = column[j, kind]
                free[kind] -= gpus
                self._had[ids[j]][kind] += 1
        return Decision(choice=choice)


def fractions(seen: ClusterObservation, column: Ints) -> Floats:
    """The linear program's X, [J, T].

    Args:
        seen: The cluster.
        column: The size of each job on each type, [J, T]; 0 where it does not run.
    """
    jobs, types = column.shape
    rows = np.arange(jobs)[:, None]
    speed = np.where(column > 0, seen.throughput[rows, column], 0.0)
    slowest = np.where(speed > 0, speed, np.inf).min(axis=1, initial=np.inf, keepdims=True)
    worth = speed / slowest
    gpus = seen.sizes.gpus[column]
    cell = np.arange(jobs * types)
    limits = csr_array(
        (
            np.concatenate([np.ones(jobs * types), gpus.ravel()]),
            (np.concatenate([cell // types, jobs + cell % types]), np.concatenate([cell, cell])),
        )
    )
    solved = linprog(
        -worth.ravel(),
        A_ub=limits,
        b_ub=np.concatenate([np.ones(jobs), seen.capacity]),
        bounds=np.stack([np.zeros(jobs * types), (column > 0).ravel()], axis=1),
        method="highs",
    )
    fraction: Floats = solved.x.reshape(jobs, types)
    return fraction


def _columns(seen: ClusterObservation) -> Ints:
    """The requested number of GPUs on each type, as columns, [J, T]; 0 where the job does not run."""
    wanted = seen.sizes.gpus[requested(seen)]
    found = np.zeros((len(seen), len(seen.capacity)), dtype=np.int64)
    for kind in range(len(seen.capacity)):
        fits = (seen.sizes.gpus == wanted[:, None]) & (seen.sizes.kind == kind) & (seen.rate > 0)
        found[:, kind] = np.argmax(fits, axis=1)
    return found
