"""What all logs come to, and how a workload is made of it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cra_simulator.rates import RateTables
from cra_simulator.workload import TraceJob


@dataclass(frozen=True, kw_only=True, slots=True)
class LoggedJob:
    """One job of a log.

    Attributes:
        name: Its name.
        submitted: When, in seconds since any moment.
        gpus: GPUs that it asked for or had.
        gpu_seconds: GPU time that it took.
        application: What it trained, where the log says so.
        priority: Larger goes first.
    """

    name: str
    submitted: float
    gpus: int
    gpu_seconds: float
    application: str | None = None
    priority: float = 0.0


def single_gpu_seconds(rates: RateTables) -> dict[str, float]:
    """How long each application takes on its smallest size, times the GPUs of that size."""
    found = {}
    for name, table in rates.tables.items():
        work = np.diff(table.progress, prepend=0.0)
        smallest = int(np.flatnonzero((table.rate > 0).all(axis=0))[0])
        found[name] = float((work / table.rate[:, smallest]).sum() * rates.sizes.gpus[smallest])
    return found


def workload_of(
    jobs: Iterable[LoggedJob], gpu_seconds: Mapping[str, float], *, begin: float = 0.0, end: float = math.inf
) -> list[TraceJob]:
    """Make a workload, whose clock begins with its first job.

    A log that does not say what jobs trained says how much GPU time they took: each job gets the application
    that needs about as much, in proportion. So the mixture of small and large jobs is that of the log. Jobs
    that held no GPU at any time are left out.

    Args:
        jobs: The jobs of the log.
        gpu_seconds: What each application takes, as `single_gpu_seconds` says it.
        begin: Seconds after the first submission from which jobs count.
        end: The same, up to which they count.
    """
    used = sorted((job for job in jobs if job.gpus and job.gpu_seconds > 0), key=lambda job: job.submitted)
    first = used[0].submitted if used else 0.0
    chosen = [job for job in used if begin <= job.submitted - first < end]
    names = unique([job.name for job in chosen])
    start = chosen[0].submitted if chosen else 0.0
    return [
        TraceJob(
            name=name,
            submitted=job.submitted - start,
            application=job.application or nearest(job.gpu_seconds, gpu_seconds),
            gpus=job.gpus,
            priority=job.priority,
        )
        for name, job in zip(names, chosen, strict=True)
    ]


def nearest(taken: float, gpu_seconds: Mapping[str, float]) -> str:
    """The application whose GPU time is nearest in proportion."""
    return min(gpu_seconds, key=lambda name: abs(math.log(gpu_seconds[name] / taken)))


def unique(names: Sequence[str]) -> list[str]:
    """The names, with a number behind those that come again."""
    seen: dict[str, int] = {}
    found = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        found.append(name if seen[name] == 1 else f"{name}#{seen[name]}")
    return found
