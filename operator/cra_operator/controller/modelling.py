"""From the speeds in a job's status to a row of goodput: what the job would do at every size on offer.

Speeds change a little at every look, so a model is kept until a point has moved by more than noise, and a row
until the model, the sizes or the batch change: with a thousand jobs only a few are computed anew.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cra_operator.api import Job, JobKey, JobStatus, Speed, TrainingSpec
from cra_operator.controller.gpu_types import Growth
from cra_operator.controller.policy import Floats, Ints, Sizes
from cra_operator.controller.speed import SpeedModel, SpeedPoint, fit_all, goodput

_SAME = 0.02
"""Relative change of a step time that is taken for noise."""
_BATCHES = 12
"""Batches that are tried between the bounds where the batch adapts."""
_UNSEEN = -1
"""Number of a type of GPU without points."""
UNKNOWN_STEP_SECONDS = 1.0
"""Step time on one GPU of a job that was never measured: only how it scales matters then."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Outlook:
    """What a job would do at each size.

    Attributes:
        rate: Goodput in steps of the job's own batch per second, [K].
        throughput: Optimizer steps per second at its present batch, [K].
    """

    rate: Floats
    throughput: Floats


_Present = tuple[str, str, int]
"""The type of a job's GPUs, that of its lowest ranks where types are mixed, and how many those are."""


@dataclass(frozen=True, slots=True)
class _Model:
    """A fitted model, the speeds that it was fitted to, and the number of each of their types."""

    speeds: Sequence[Speed]
    kinds: Mapping[str, int]
    model: SpeedModel


class Outlooks:
    """Remembers models and rows between looks; what it says depends on the jobs alone."""

    def __init__(self) -> None:
        self._models: dict[JobKey, _Model] = {}
        self._rows: dict[JobKey, tuple[SpeedModel, tuple[object, ...], Outlook]] = {}

    def of(
        self, jobs: Sequence[Job], sizes: Sizes, growths: Mapping[JobKey, Growth] | None = None
    ) -> list[Outlook]:
        """The outlook of each job.

        Args:
            jobs: The jobs; what is remembered of all others is forgotten.
            sizes: The columns; their types are taken to be those that the job would find there (`_kinds`).
            growths: What GPUs beyond the present ones are worth, where it is not what those are.
        """
        self._fit(jobs)
        columns = (sizes.gpus.tobytes(), sizes.nodes.tobytes())
        outlooks = []
        for job in jobs:
            key = job.key
            known = self._models[key]
            present = _present_types(job.status)
            growth = growths.get(key) if growths else None
            inputs = (columns, present, growth, *_batches(job), _rounded(job.status.noise_scale))
            row = self._rows.get(key)
            if row is None or row[0] is not known.model or row[1] != inputs:
                kinds = _kinds(present, known.kinds, sizes.gpus)
                row = (known.model, inputs, _outlook(job, known.model, sizes, kinds, growth))
                self._rows[key] = row
            outlooks.append(row[2])
        return outlooks

    def _fit(self, jobs: Sequence[Job]) -> None:
        """Bring the models up to date."""
        before = self._models
        self._models = {}
        due: list[tuple[Job, dict[str, int], list[SpeedPoint]]] = []
        for job in jobs:
            key = job.key
            known = before.get(key)
            if known is not None and _alike(known.speeds, job.status.speeds):
                self._models[key] = known
            else:
                due.append((job, *_points(job)))
        if due:
            models = fit_all([points for _, _, points in due])
            for (job, kinds, _), model in zip(due, models, strict=True):
                self._models[job.key] = _Model(job.status.speeds, kinds, model)
        self._rows = {key: row for key, row in self._rows.items() if key in self._models}


def _outlook(job: Job, model: SpeedModel, sizes: Sizes, kinds: Ints, growth: Growth | None) -> Outlook:
    here = Sizes(gpus=sizes.gpus, nodes=sizes.nodes, kind=kinds)
    base, low, high, batch = _batches(job)
    # GPUs that compute twice as much do so in the time that others take for half the batch.
    faster = 1.0 if growth is None else _mean_worth(sizes.gpus, growth)
    throughput = model.throughput(here, batch / faster)
    noise = job.status.noise_scale
    if low == high or noise is None:
        # NB: without a noise scale a larger batch is not known to help, so none is promised.
        return Outlook(rate=goodput_row(throughput, batch, base, noise or 0.0), throughput=throughput)
    batches = np.unique(np.geomspace(low, high, _BATCHES).round())[:, None]
    rates = goodput_row(model.throughput(here, batches / faster), batches, base, noise)
    return Outlook(rate=rates.max(axis=0), throughput=throughput)


def _mean_worth(gpus: Ints, growth: Growth) -> Floats:
    """Worth of a GPU at each size in parts of a present one, [K]: those that are there, and new ones."""
    more = np.maximum(gpus - growth.held, 0)
    return 1 + more / np.maximum(gpus, 1) * (growth.factor - 1)


def goodput_row(throughput: Floats, batch: float | Floats, base: float, noise: float) -> Floats:
    """`speed.goodput` of arrays."""
    return np.asarray(goodput(throughput, batch, base, noise))


def _batches(job: Job) -> tuple[int, int, int, int]:
    """The job's own batch, the bounds of the one it may have, and the one that it has."""
    training: TrainingSpec = job.spec.training
    base = training.batch_size
    low, high = training.min_batch_size or base, training.max_batch_size or base
    return base, low, high, job.status.batch_size or base


def _points(job: Job) -> tuple[dict[str, int], list[SpeedPoint]]:
    """The number of each type of GPU, and the measured points."""
    kinds: dict[str, int] = {}
    points = [
        SpeedPoint(
            gpus=speed.gpus,
            nodes=speed.nodes,
            kind=kinds.setdefault(speed.gpu_type or "", len(kinds)),
            batch=speed.batch_size,
            step_seconds=speed.step_seconds,
            compute_seconds=speed.compute_seconds,
        )
        for speed in job.status.speeds
    ]
    batch = job.spec.training.batch_size
    unknown = SpeedPoint(gpus=1, nodes=1, kind=0, batch=batch, step_seconds=UNKNOWN_STEP_SECONDS)
    return kinds, points or [unknown]


def _present_types(status: JobStatus) -> _Present:
    """The type of GPU that the job runs on, or ran on last, and that of its lowest ranks with their GPUs.

    The first is empty if types are mixed or not known.
    """
    types = {worker.gpu_type for worker in status.workers}
    if len(types) > 1:
        ranks = sorted(status.workers, key=lambda worker: worker.rank)
        alike = itertools.takewhile(lambda worker: worker.gpu_type == ranks[0].gpu_type, ranks)
        return "", ranks[0].gpu_type or "", sum(worker.gpus or 0 for worker in alike)
    if types:
        return types.pop() or "", "", 0
    newest: Speed | None = None
    for speed in status.speeds:
        if newest is None or (speed.time and newest.time and speed.time > newest.time):
            newest = speed
    return (newest.gpu_type or "") if newest is not None else "", "", 0


def _kinds(present: _Present, numbers: Mapping[str, int], gpus: Ints) -> Ints:
    """Number of the type of GPU that the job is taken to run on at each size, [K].

    That is the present one, which may be a mixture. A job that shrinks keeps its lowest ranks, so as many as
    are of one type are predicted from what was measured on that type.
    """
    all_, lowest, many = present
    kept = numbers.get(lowest, _UNSEEN)
    kinds: Ints = np.where(gpus <= many, kept, numbers.get(all_, _UNSEEN))
    return kinds


def _alike(old: Sequence[Speed], new: Sequence[Speed]) -> bool:
    """Whether the speeds are of the same sizes and differ by no more than noise."""
    return old is new or (
        len(old) == len(new)
        and all(
            a.gpus == b.gpus
            and a.batch_size == b.batch_size
            and a.nodes == b.nodes
            and a.gpu_type == b.gpu_type
            and abs(a.step_seconds - b.step_seconds) < _SAME * a.step_seconds
            for a, b in zip(old, new, strict=True)
        )
    )


def _rounded(value: float | None) -> float | None:
    """Two significant digits."""
    return None if value is None else float(f"{value:.2g}")
