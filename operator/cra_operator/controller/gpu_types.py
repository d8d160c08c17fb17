"""Types of GPU: what each is worth to each job, and on which one new workers should be.

A job is not bound to a type. Its ranks share every batch by what each computes, so they may be of several
types, and only *new* workers are ever chosen a type for: whoever trains is left where it is.

What a GPU of type t computes for job j is measured (`JobStatus.gpu_types`). Where it is not, the logarithms
are taken to be a sum,

    log s_jt = u_j + v_t

of a part of the job and one of the type, fitted by least squares to all that was measured. So a job that
knows one type expects of another what the two were worth to jobs that know both. Types that nobody compared
are taken to be alike, and the scheduler spreads pods over them until somebody has.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from cra_operator.admission import admits, alike, ask_for
from cra_operator.api import Job, JobKey
from cra_operator.controller.policy import Floats
from cra_operator.sizing import Size, gpus_per_worker
from cra_operator.view import NodeView

Worth = Mapping[str, float]
"""Samples that one GPU of each type computes for a job in a second, in units of the job's own."""

NOBODY: JobKey = ("", "")
"""A job that nothing is known of."""
_ALIKE = 1.1
"""Types whose worth differs by less than this factor are alike for a job."""


def worth_of(jobs: Iterable[Job], nodes: Iterable[NodeView]) -> dict[JobKey, Worth]:
    """What GPUs of the cluster's types are worth to each job and to `NOBODY`; nothing if all are of one type.

    Args:
        jobs: All jobs, those that ended too: they still teach about types.
        nodes: All nodes.
    """
    types = sorted({node.gpu_type for node in nodes if node.gpus and node.gpu_type})
    if len(types) < 2:
        return {}
    jobs = list(jobs)
    log = np.full((len(jobs) + 1, len(types)), np.nan)
    for j, job in enumerate(jobs):
        for speed in job.status.gpu_types:
            if speed.gpu_type in types and speed.samples_per_second > 0:
                log[j, types.index(speed.gpu_type)] = math.log(speed.samples_per_second)
    keys = [*(job.key for job in jobs), NOBODY]
    worth = np.exp(completed(log)).tolist()
    return {key: dict(zip(types, row, strict=True)) for key, row in zip(keys, worth, strict=True)}


def completed(log: Floats) -> Floats:
    """The table with its gaps filled from the fit of rows and columns, [J, T]; see above.

    With the best u for given v put in, v solves L v = r, where L is the Laplacian of the types, joined by the
    jobs that know several. Its pseudo-inverse leaves types alike, on average, that nothing joins.

    Args:
        log: What was measured, NaN where nothing was, [J, T].
    """
    known = ~np.isnan(log)
    count = np.maximum(known.sum(axis=1, keepdims=True), 1)
    values = np.where(known, log, 0.0)
    part = known / count
    laplacian = np.diag(known.sum(axis=0)) - part.T @ known
    types = np.linalg.pinv(laplacian) @ (values - known * values.sum(axis=1, keepdims=True) / count).sum(
        axis=0
    )
    jobs = (np.where(known, log - types, 0.0).sum(axis=1, keepdims=True)) / count
    return np.where(known, log, jobs + types)


class Usable:
    """Which GPUs pods may use, counted once for jobs that ask alike.

    Args:
        at: All nodes by name.
        gpus: Those of each node that count.
    """

    def __init__(self, at: Mapping[str, NodeView], gpus: Mapping[str, int]) -> None:
        self._at = at
        self._gpus = gpus
        self._known: dict[tuple[object, ...], Mapping[str, int]] = {}

    def by_type(self, job: Job) -> Mapping[str, int]:
        """GPUs in whole workers of the job on the nodes that admit them, by type."""
        same = alike(job)
        if same not in self._known:
            each = gpus_per_worker(job.spec.scaling)
            ask = ask_for(job, Size(workers=1, gpus_per_worker=each))
            found = Counter[str]()
            for name, node in self._at.items():
                if admits(node, ask):
                    found[node.gpu_type] += self._gpus.get(name, 0) // each * each
            self._known[same] = found
        return self._known[same]


@dataclass(frozen=True, kw_only=True, slots=True)
class Growth:
    """What GPUs beyond the present ones are worth to a job.

    Attributes:
        held: Those that it has.
        factor: Worth of another one, in parts of one that it has.
    """

    held: int
    factor: float


def growths(
    jobs: Iterable[Job], worth: Mapping[JobKey, Worth], at: Mapping[str, NodeView], shared: Mapping[str, int]
) -> dict[JobKey, Growth]:
    """What more GPUs would be worth to the jobs that train, where that is not what theirs are.

    Which GPUs a job would get is not known before somebody decides, so they are all that it might: those of
    the nodes that admit it, less its own.

    Args:
        jobs: The jobs.
        worth: What types are worth to them.
        at: All nodes by name.
        shared: GPUs of each node that the jobs share.
    """
    usable, found = Usable(at, shared), {}
    for job in jobs if worth else ():
        values, own = worth[job.key], Counter[str]()
        for worker in job.status.workers:
            own[worker.gpu_type or ""] += worker.gpus or 0
        held = own.total()
        if not held or not own.keys() <= values.keys():
            continue
        there = usable.by_type(job)
        room = {kind: max(0, gpus - own[kind]) for kind, gpus in there.items() if kind in values}
        others = sum(room.values())
        if others:
            theirs = sum(values[kind] * gpus for kind, gpus in room.items()) / others
            factor = theirs * held / sum(values[kind] * gpus for kind, gpus in own.items())
            if not 1 / _ALIKE < factor < _ALIKE:
                found[job.key] = Growth(held=held, factor=float(f"{factor:.2g}"))
    return found


@dataclass(frozen=True, kw_only=True, slots=True)
class Want:
    """New workers of a job.

    Attributes:
        priority: Value of the job's priority class.
        gpus: GPUs of these workers together.
        worth: What a GPU is worth to it, of the types on which its pods may run.
    """

    priority: int
    gpus: int
    worth: Worth


@dataclass(frozen=True, kw_only=True, slots=True)
class Preference:
    """A type for new workers, and the reason for people."""

    gpu_type: str
    message: str


def prefer(wants: Mapping[JobKey, Want], free: Mapping[str, int]) -> dict[JobKey, Preference]:
    """Which type new workers should be on.

    The most important jobs choose first; among equals whoever would lose most, for each GPU, by its second
    choice (the greatest regret; Martello and Toth, *Knapsack Problems*, 1990, section 7.4).

    Args:
        wants: By job.
        free: GPUs by type that are free or about to be.

    Returns:
        A preference for each job that has a choice and does better by it, or leaves more to others.
    """
    left = {kind: gpus for kind, gpus in free.items() if gpus > 0}
    waiting, found = dict(wants), {}
    while waiting:
        key = min(waiting, key=lambda key: (-waiting[key].priority, -_regret(waiting[key].worth, left), key))
        want = waiting.pop(key)
        first = [kind for kind in want.worth if free.get(kind, 0) > 0]
        ranked = _ranked(want.worth, left)
        if not ranked:
            continue
        best = ranked[0]
        taken = [kind for kind in first if kind not in left]
        if taken and want.worth[max(taken, key=want.worth.__getitem__)] >= want.worth[best]:
            text = f"new workers leave {', '.join(taken)} to jobs that gain more by it"
            found[key] = Preference(gpu_type=best, message=text)
        elif _regret(want.worth, left) > math.log(_ALIKE):
            times = want.worth[best] / want.worth[ranked[1]]
            text = f"new workers prefer {best}, {times:.1f} times as fast for it as {ranked[1]}"
            found[key] = Preference(gpu_type=best, message=text)
        gpus = want.gpus
        for kind in ranked:
            given = min(gpus, left[kind])
            gpus, left[kind] = gpus - given, left[kind] - given
        left = {kind: most for kind, most in left.items() if most > 0}
    return found


def _ranked(worth: Worth, left: Mapping[str, int]) -> list[str]:
    """Types of which some are left, the best first; of equal ones that of which there is most."""
    return sorted(
        (kind for kind in worth if kind in left), key=lambda kind: (-worth[kind], -left[kind], kind)
    )


def _regret(worth: Worth, left: Mapping[str, int]) -> float:
    """How much better the best type is than the next, as a logarithm."""
    best = sorted((worth[kind] for kind in worth if kind in left), reverse=True)[:2]
    return math.log(best[0] / best[1]) if len(best) > 1 else 0.0
