"""Policies that see what the operator sees: models of speed, fitted to what was measured so far.

Nobody tells the operator how fast a job would be at a size that it never had. It measures the steps of
running jobs, fits a model for each (`cra_operator.controller.speed`) and shows policies what the model says.
Here the measurements come from the profiles, at the batch size that the model takes for best; the jobs
themselves train at the batch that is best. Of a job that never trained the operator knows nothing: it is
thought to take a second for a step on one GPU, and what it has left is not known.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from cra_operator.controller.policy import ClusterObservation, Decision, Floats, Policy, Sizes
from cra_operator.controller.speed import SpeedModel, SpeedPoint, fit_all, goodput
from cra_simulator.cluster import Cluster
from cra_simulator.mixed import profiles_of
from cra_simulator.profiles import Profile
from cra_simulator.workload import TraceJob

_BATCHES = 12
"""Batch sizes that are tried, as many as the operator tries."""


@dataclass(slots=True)
class _Known:
    """What is known of a job."""

    points: dict[tuple[int, int], SpeedPoint] = field(default_factory=dict)
    model: SpeedModel | None = None
    epoch: int = -1
    rate: Floats = field(default_factory=lambda: np.empty(0))
    throughput: Floats = field(default_factory=lambda: np.empty(0))
    batch: Floats = field(default_factory=lambda: np.empty(0))


class Fitted:
    """A policy that sees models instead of the truth.

    Args:
        policy: Who decides.
        jobs: The workload.
        profiles: A folder of profiles.
        cluster: Where jobs run.
    """

    def __init__(self, policy: Policy, jobs: Sequence[TraceJob], profiles: Path, cluster: Cluster) -> None:
        self._policy = policy
        self._jobs = jobs
        self._profiles = {
            name: profiles_of(name, profiles, cluster) for name in {job.application for job in jobs}
        }
        self._node = cluster.node_gpus
        self._known: dict[int, _Known] = {}
        self._batches: dict[str, Floats] = {}

    def decide(self, seen: ClusterObservation) -> Decision:
        """See `Policy.decide`."""
        ids = seen.ids.tolist()
        self._known = {job: self._known.get(job) or _Known() for job in ids}
        epochs = [self._epoch(job, seen.remaining[row]) for row, job in enumerate(ids)]
        due = [
            job
            for row, (job, epoch) in enumerate(zip(ids, epochs, strict=True))
            if self._measure(seen, row, job, epoch) or self._known[job].model is None
        ]
        models = fit_all([self._points(job) for job in due]) if due else []
        for job, model in zip(due, models, strict=True):
            self._known[job].model, self._known[job].epoch = model, -1
        for job, epoch in zip(ids, epochs, strict=True):
            self._predict(job, epoch, seen.sizes)
        runs = seen.rate > 0
        trained = np.array([bool(self._known[job].points) for job in ids])
        return self._policy.decide(
            replace(
                seen,
                rate=np.where(runs, np.array([self._known[job].rate for job in ids]), 0.0),
                throughput=np.where(runs, np.array([self._known[job].throughput for job in ids]), 0.0),
                remaining=np.where(trained, seen.remaining, np.nan),
                steps_left=np.where(trained, seen.steps_left, np.nan),
            )
        )

    def _of(self, job: int) -> list[tuple[Profile, float]]:
        return self._profiles[self._jobs[job].application]

    def _epoch(self, job: int, remaining: float) -> int:
        progress = self._of(job)[0][0].progress
        return min(int(np.searchsorted(progress, progress[-1] - remaining, side="right")), len(progress) - 1)

    def _points(self, job: int) -> list[SpeedPoint]:
        batch = self._of(job)[0][0].initial_batch
        unknown = SpeedPoint(gpus=1, nodes=1, kind=0, batch=batch, step_seconds=1.0)
        return list(self._known[job].points.values()) or [unknown]

    def _measure(self, seen: ClusterObservation, row: int, job: int, epoch: int) -> bool:
        """Measure a job that has trained at its size; says whether that told something new."""
        column, known = int(seen.current[row]), self._known[job]
        if not column or seen.pause_left[row] > 0:
            return False
        gpus, kind = int(seen.sizes.gpus[column]), int(seen.sizes.kind[column])
        profile, speed = self._of(job)[kind]
        node = int(self._node[kind])
        wanted = int(known.batch[column]) if known.points else int(profile.batches(gpus, _BATCHES)[0])
        if (column, wanted) in known.points:
            return False
        shape = (node,) * (gpus // node) or (gpus,)
        batch, seconds, compute = profile.step(shape, wanted, speed=speed)
        known.points[column, wanted] = SpeedPoint(
            gpus=gpus,
            nodes=len(shape),
            kind=kind,
            batch=batch,
            step_seconds=seconds,
            compute_seconds=compute,
        )
        return True

    def _candidates(self, profile: Profile, sizes: Sizes) -> Floats:
        """Batch sizes to choose from at each size, [B, K]."""
        if profile.name not in self._batches:
            # Where there are fewer, some stand there twice.
            columns = [np.resize(profile.batches(int(gpus), _BATCHES), _BATCHES) for gpus in sizes.gpus]
            self._batches[profile.name] = np.array(columns, dtype=float).T
        return self._batches[profile.name]

    def _predict(self, job: int, epoch: int, sizes: Sizes) -> None:
        """Bring what is thought of a job up to date with its model and epoch."""
        known = self._known[job]
        if known.epoch == epoch or known.model is None:
            return
        profile = self._of(job)[0][0]
        base = profile.initial_batch
        noise = profile.noise_scale(epoch, [base, *(point.batch for point in known.points.values())][-1])
        candidates = self._candidates(profile, sizes)
        throughput = known.model.throughput(sizes, candidates)
        rates = np.asarray(goodput(throughput, candidates, base, noise))
        best, columns = rates.argmax(axis=0), np.arange(len(sizes))
        known.rate, known.batch = rates[best, columns], candidates[best, columns]
        known.throughput = throughput[best, columns]
        known.epoch = epoch
