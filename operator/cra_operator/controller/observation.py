"""One look at a running job: what its trainers and its GPUs report, joined and reduced."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from cra_operator.api import CheckpointStatus, Progress


@dataclass(frozen=True, kw_only=True)
class WorkerSample:
    """What one pod reports: share of the batch and weight as fractions of 1, performance, the samples/s that
    it was measured to compute, and whether a rank of it has been slow for good.
    """

    share: float | None = None
    weight: float | None = None
    performance: float | None = None
    capability: float | None = None
    straggler: bool = False


@dataclass(frozen=True, kw_only=True)
class Pace:
    """How fast a job trains at its present size.

    Attributes:
        pods: Names of the pods whose pace it is.
        step_seconds: Duration of an optimizer step.
        compute_seconds: Part of it until the slowest rank's gradients were there; None if not known.
    """

    pods: frozenset[str]
    step_seconds: float
    compute_seconds: float | None = None


@dataclass(frozen=True, kw_only=True)
class Observation:
    """The metrics of one job at one time. Two looks that saw the same compare equal, whenever they were made.

    Attributes:
        time: When it was made.
        run: The run of the pods that were looked at.
        available: Whether the trainers' metrics were there.
        reason: CamelCase word for the state of the metrics.
        message: The same for people.
        progress: As rank 0 reports it.
        workers: By name of the pod.
        utilization: Mean over the job's GPUs, 0..1.
        checkpoint: The newest checkpoint that rank 0 reports.
        checkpoint_failing: Whether rank 0 could not write the last one.
        pause_seconds: The last pause of training, when workers joined or left, that rank 0 reports.
        batch_size: Samples of the global batch.
        noise_scale: Gradient noise scale in samples.
        pace: Its speed; None right after a change, while samples of the size before may be among those seen.
    """

    time: datetime = field(compare=False)
    run: int
    available: bool = True
    reason: str = "Fresh"
    message: str = ""
    progress: Progress | None = None
    workers: Mapping[str, WorkerSample] = field(default_factory=dict)
    utilization: float | None = None
    checkpoint: CheckpointStatus | None = None
    checkpoint_failing: bool = False
    pause_seconds: float | None = None
    batch_size: int | None = None
    noise_scale: float | None = None
    pace: Pace | None = None

    @property
    def stragglers(self) -> frozenset[str]:
        """Names of the pods that are slow for good; none without fresh metrics."""
        return frozenset(name for name, worker in self.workers.items() if worker.straggler)
