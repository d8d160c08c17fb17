"""The cluster as a policy sees it: jobs, pods and nodes as arrays.

All GPUs are one pool here, whatever their type: a job is not pinned to one. What types mean for a job is in
its speeds: those that it was measured at, and those predicted with more GPUs, which may be slower or faster
than its own (`gpu_types.growths`). Which type new workers had best be on is chosen afterwards (`landing`).
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from operator import itemgetter

import numpy as np
from numpy.typing import NDArray

from cra_operator.admission import admits, alike, ask_for
from cra_operator.api import Job, JobKey
from cra_operator.controller.facts import startup_seconds, waits
from cra_operator.controller.gpu_types import Worth, growths
from cra_operator.controller.modelling import Outlooks
from cra_operator.controller.policy import ClusterObservation, Floats, Ints, Sizes
from cra_operator.sizing import Size, gpus_per_worker
from cra_operator.view import NodeView, PodView, holds_gpus

_FINE = 16
"""Up to so many GPUs every size is on offer; above, sizes are about an eighth apart."""
_COARSE = 1.125
_UID_BITS, _UID_MASK = 20, 0xFFFFF

_Bounds = tuple[int, int, int]
"""Fewest and most GPUs of a job, in whole workers and as far as nodes admit it, and those of a worker."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Census:
    """What a policy sees, and whose rows they are.

    Attributes:
        seen: The arrays.
        keys: The job of each row, in order of submission.
    """

    seen: ClusterObservation
    keys: tuple[JobKey, ...]


def census(
    jobs: Iterable[Job],
    *,
    pods: Iterable[PodView],
    nodes: Iterable[NodeView],
    priorities: Mapping[JobKey, int],
    now: datetime,
    outlooks: Outlooks,
    worth: Mapping[JobKey, Worth] | None = None,
) -> Census:
    """Count what there is.

    Args:
        jobs: Those that have GPUs or want some, in any order.
        pods: All pods that request GPUs, of these jobs and of others.
        nodes: All nodes.
        priorities: Value of each job's priority class; 0 where it has none.
        now: The current time.
        outlooks: Keeps models of speed between two counts.
        worth: What types of GPU are worth to each job, if there are several.
    """
    numbered = sorted(((number(job), job) for job in jobs), key=itemgetter(0))
    ids, rows = np.array([n for n, _ in numbered], dtype=np.int64), [job for _, job in numbered]
    keys = tuple(job.key for job in rows)
    at = {node.name: node for node in nodes}
    shared = shared_gpus(at, pods, ours=set(keys))
    capacity, node_gpus = sum(shared.values()), max([1, *(node.gpus for node in at.values())])
    gpus = [_held(job) for job in rows]
    reach = reaches(rows, at, shared)
    bounds = [_bounds(*known) for known in zip(rows, gpus, reach, strict=True)]
    sizes = sizes_on_offer(set(bounds), set(gpus), node_gpus)
    fits = runs_at(sizes, np.array(bounds, dtype=np.int64).reshape(-1, 3))
    seen = outlooks.of(rows, sizes, growths(rows, worth or {}, at, shared))
    rate = _table([outlook.rate for outlook in seen], sizes, fits)
    throughput = _table([outlook.throughput for outlook in seen], sizes, fits)
    told = [  # one pass over the jobs: with a thousand of them each costs a millisecond or more
        (
            progress_left(job),
            samples_left(job),
            job.status.batch_size or job.spec.training.batch_size,
            job.status.gpu_seconds or 0.0,
            (job.status.rescales or 0) + (job.status.restarts or 0),
            change_seconds(job),
            _changes(job),
            _limit(job, low, held),
            job.spec.scaling.gpus or low,
            relative_reward(job),
        )
        for job, held, (low, _, _) in zip(rows, gpus, bounds, strict=True)
    ]
    remaining, samples, batch, attained, restarts, change, changes, limit, request, reward = (
        np.array(told, dtype=np.float64).reshape(-1, 10).T
    )
    return Census(
        keys=keys,
        seen=ClusterObservation(
            time=now.timestamp(),
            capacity=np.array([capacity]),
            node_gpus=np.array([node_gpus]),
            sizes=sizes,
            ids=ids,
            rate=rate,
            throughput=throughput,
            remaining=remaining,
            steps_left=samples / batch,
            age=np.maximum(now.timestamp() - (ids >> _UID_BITS), 0.0),
            attained=attained,
            restarts=restarts.astype(np.int64),
            restart_seconds=change,
            pause_left=np.where(changes, change, 0.0),
            current=_column(sizes, np.array(gpus, dtype=np.int64)),
            limit=limit.astype(np.int64),
            request=_column(sizes, request.astype(np.int64)),
            priority=np.array([float(priorities.get(key, 0)) for key in keys]),
            reward=reward,
        ),
    )


def shared_gpus(at: Mapping[str, NodeView], pods: Iterable[PodView], *, ours: set[JobKey]) -> dict[str, int]:
    """GPUs of each node that these jobs may share.

    Allocatable GPUs of nodes that take pods, less what pods of others hold there; and what these jobs hold on
    nodes that take no more.
    """
    free = {name: node.gpus if node.ready and node.schedulable else 0 for name, node in at.items()}
    for pod in pods:
        if holds_gpus(pod) and pod.node in free:
            own, takes = (pod.namespace, pod.job) in ours, at[pod.node].ready and at[pod.node].schedulable
            free[pod.node] += (pod.gpus if own and not takes else 0) - (pod.gpus if takes and not own else 0)
    return {name: max(0, gpus) for name, gpus in free.items()}


def reaches(jobs: Sequence[Job], at: Mapping[str, NodeView], shared: Mapping[str, int]) -> list[int]:
    """The most GPUs that each job could have if the others had none: whole workers on nodes that admit it."""
    known: dict[tuple[object, ...], int] = {}
    found = []
    for job in jobs:
        same = alike(job)
        if same not in known:
            each = gpus_per_worker(job.spec.scaling)
            ask = ask_for(job, Size(workers=1, gpus_per_worker=each))
            usable = [gpus for name, gpus in shared.items() if gpus >= each and admits(at[name], ask)]
            known[same] = sum(gpus // each * each for gpus in usable)
        found.append(known[same])
    return found


def sizes_on_offer(bounds: Iterable[_Bounds], held: Iterable[int], node_gpus: int) -> Sizes:
    """The columns: 0, every size up to 16, then coarser ones, and all bounds and present sizes.

    Args:
        bounds: Those of the jobs.
        held: Their present sizes.
        node_gpus: GPUs of a node.
    """
    wanted = set(held)
    for low, high, each in bounds:
        wanted |= {low, high}
        step = float(low)
        while step <= high:
            wanted.add(int(step) // each * each)
            step = step + each if step < _FINE else max(step + each, step * _COARSE)
    gpus = np.array(sorted(wanted - {0}), dtype=np.int64)
    return Sizes(
        gpus=np.concatenate([[0], gpus]),
        nodes=np.concatenate([[0], -(-gpus // node_gpus)]),
        kind=np.zeros(len(gpus) + 1, dtype=np.int64),
    )


def runs_at(sizes: Sizes, bounds: Ints) -> NDArray[np.bool_]:
    """Where each job may run, [J, K]: whole workers within its bounds.

    Args:
        sizes: The columns.
        bounds: Fewest and most GPUs and those of a worker, [J, 3].
    """
    low, high, each = bounds[:, 0, None], bounds[:, 1, None], bounds[:, 2, None]
    fits: NDArray[np.bool_] = (
        (sizes.gpus >= low) & (sizes.gpus <= high) & (sizes.gpus % each == 0) & (sizes.gpus > 0)
    )
    return fits


def samples_left(job: Job) -> float:
    """Samples until the training is done; NaN where the job declares no end or has not told yet.

    Before training begins nobody knows how large an epoch is.
    """
    progress = job.status.progress
    if progress is None or not progress.ratio or not progress.samples:
        return float("nan")
    return progress.samples * (1 - progress.ratio) / progress.ratio


def progress_left(job: Job) -> float:
    """Steps of the job's own batch until then, as `speed.goodput` counts them; NaN likewise.

    Where the job tells what its steps were worth, those to come are taken to be worth as much by the sample.
    """
    progress = job.status.progress
    if progress is None or not progress.ratio or not progress.scale_invariant_steps:
        return samples_left(job) / job.spec.training.batch_size
    return progress.scale_invariant_steps * (1 - progress.ratio) / progress.ratio


def change_seconds(job: Job) -> float:
    """What a change of size costs, in seconds of all its GPUs without progress.

    Where a job trains on meanwhile, only new GPUs wait for their pods, and those are mostly half of them.
    """
    startup = startup_seconds(job)
    return startup / 2 + (job.status.pause_seconds or 0.0) if job.spec.elastic else startup


def relative_reward(job: Job) -> float:
    """The reward of the job's present size over that of one busy worker, whatever its objective.

    0 while it waits. NaN while it changes, where its metrics are missing, and where what a policy decides is
    not done: that says nothing of the decision.
    """
    status, objective = job.status, job.spec.objective
    if job.spec.scaling.mode != "Auto":
        return float("nan")
    if waits(job):
        return 0.0
    if status.reward is None or _changes(job) or not status.is_true("MetricsAvailable"):
        return float("nan")
    return status.reward / (objective.alpha + objective.beta)


def number(job: Job) -> int:
    """One number per job that rises with submission and survives a restart of the operator.

    Seconds of creation, and below them bits of the uid for jobs of the same second.
    """
    seconds = int(job.metadata.creation_timestamp.timestamp())
    return (seconds << _UID_BITS) | (zlib.crc32(f"{job.key}{job.metadata.uid}".encode()) & _UID_MASK)


def _bounds(job: Job, held: int, reach: int) -> _Bounds:
    scaling = job.spec.scaling
    each = gpus_per_worker(scaling)
    low = -(-scaling.min_gpus // each) * each
    most = max(low, scaling.max_gpus // each * each)
    return low, max(held, min(most, reach)), each


def _held(job: Job) -> int:
    """GPUs of the job's run; none while it waits."""
    status = job.status
    if status.phase not in ("Starting", "Running", "Rescaling"):
        return 0
    return (status.run.gpus if status.run is not None else None) or status.gpus or 0


def _limit(job: Job, low: int, held: int) -> int:
    """Twice the most that it has run on: what lies beyond is too far from what was measured."""
    return max(low, 2 * held, *[2 * speed.gpus for speed in job.status.speeds])


def _changes(job: Job) -> bool:
    return job.status.phase in ("Starting", "Rescaling") or job.status.is_true("Rescaling")


def _column(sizes: Sizes, gpus: Ints) -> Ints:
    """The column of each size; the next smaller one where there is none."""
    return np.searchsorted(sizes.gpus, gpus, side="right") - 1


def _table(rows: Sequence[Floats], sizes: Sizes, fits: NDArray[np.bool_]) -> Floats:
    table = np.stack(rows) if rows else np.zeros((0, len(sizes)))
    return np.where(fits, table, 0.0)
