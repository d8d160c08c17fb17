"""What a simulation comes to."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cra_operator.controller.policy import Floats


@dataclass(frozen=True, kw_only=True, slots=True)
class JobResult:
    """One job: times in seconds, GPU time in GPU-seconds."""

    name: str
    application: str
    submitted: float
    finished: float
    restarts: int
    gpu_seconds: float

    @property
    def completion_seconds(self) -> float:
        """Job completion time (JCT): from submission to the end."""
        return self.finished - self.submitted


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """All jobs of a workload, in order of submission."""

    jobs: tuple[JobResult, ...]

    @property
    def completion_seconds(self) -> Floats:
        """Completion time of each job, [J]."""
        return np.array([job.completion_seconds for job in self.jobs])

    @property
    def mean_seconds(self) -> float:
        """Mean job completion time."""
        return float(self.completion_seconds.mean())

    @property
    def median_seconds(self) -> float:
        """Median job completion time."""
        return float(np.median(self.completion_seconds))

    @property
    def p99_seconds(self) -> float:
        """99th percentile of job completion times."""
        return float(np.percentile(self.completion_seconds, 99))

    @property
    def makespan_seconds(self) -> float:
        """From the clock's beginning to the end of the last job."""
        return max(job.finished for job in self.jobs)

    @property
    def restarts_per_job(self) -> float:
        """Mean number of changes after the first start."""
        return float(np.mean([job.restarts for job in self.jobs]))

    @property
    def gpu_hours_per_job(self) -> float:
        """Mean GPU time."""
        return float(np.mean([job.gpu_seconds for job in self.jobs])) / 3600
