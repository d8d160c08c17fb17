"""Everything that a decision about one job depends on, in one frozen value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property

from cra_operator.actions import Refusal
from cra_operator.admission import Verdict
from cra_operator.api import MANAGER, Job
from cra_operator.controller.observation import Observation
from cra_operator.sizing import Size, gpus_per_worker, wanted
from cra_operator.view import NodeView, PodView, is_live

ACTIVE = ("Starting", "Running", "Rescaling", "Suspending")
"""Phases with a generation of pods at work."""
FINISHED = ("Succeeded", "Failed")


@dataclass(frozen=True)
class World:
    """What is known about a job when a decision is due.

    Attributes:
        job: The job as last read or written.
        pods: Its pods, of all generations.
        nodes: All nodes by name.
        image: Trainer image for built-in workloads.
        now: The current time.
        verdict: The answer to `asks_for`, None if it asked for nothing.
        observation: The last look at its metrics, if any.
        refusal: Set if a child of the last plan could not be made.
        leftovers: Pods of an earlier job of the same name that are not gone yet.
        image_pull_policy: Pull policy of the trainer image.
    """

    job: Job
    pods: tuple[PodView, ...]
    nodes: Mapping[str, NodeView]
    image: str
    now: datetime
    verdict: Verdict | None = None
    observation: Observation | None = None
    refusal: Refusal | None = None
    leftovers: int = 0
    image_pull_policy: str = "IfNotPresent"

    @cached_property
    def generation(self) -> int:
        """The newest generation: the status's, or one that only its pods or their refusal know of."""
        refused = self.refusal.generation if self.refusal is not None and not self.refusal.passing else 0
        return max([self.job.status.generation or 0, refused, *(pod.generation for pod in self.pods)])

    @cached_property
    def current(self) -> tuple[PodView, ...]:
        """The pods of that generation by rank."""
        newest = (pod for pod in self.pods if pod.generation == self.generation)
        return tuple(sorted(newest, key=lambda pod: pod.rank))

    @cached_property
    def live(self) -> tuple[PodView, ...]:
        """Pods of any generation that may still compute."""
        return tuple(pod for pod in self.pods if is_live(pod, self.nodes, self.now))

    @property
    def is_known(self) -> bool:
        """Whether the status knows of the newest generation, which it does once all its pods were created."""
        return self.generation == (self.job.status.generation or 0)

    @cached_property
    def phase(self) -> str:
        """The phase, with pods that the status does not know of taken into account."""
        phase = self.job.status.phase or "Pending"
        return phase if self.is_known or phase in FINISHED else "Starting"

    @cached_property
    def wanted(self) -> Size:
        """The size that the spec asks for."""
        return wanted(self.job.spec.scaling)

    @cached_property
    def size(self) -> Size:
        """The newest generation's size; what the status aims at when no pod is left to tell."""
        if self.current:
            workers = max(pod.workers for pod in self.current)
            return Size(workers=workers, gpus_per_worker=gpus_per_worker(self.job.spec.scaling))
        return self.aim

    @cached_property
    def aim(self) -> Size:
        """The size that the status aims at."""
        each = gpus_per_worker(self.job.spec.scaling)
        gpus = self.job.status.desired_gpus
        return Size(workers=gpus // each, gpus_per_worker=each) if gpus else self.wanted

    @cached_property
    def missing(self) -> tuple[int, ...]:
        """Ranks of the newest generation that have no pod."""
        return tuple(sorted(set(range(self.size.workers)) - {pod.rank for pod in self.current}))


def is_ours(job: Job) -> bool:
    """Whether this operator looks after the job at all."""
    return job.spec.managed_by in (None, MANAGER) and job.metadata.deletion_timestamp is None


def asks_for(world: World) -> Size | None:
    """The size for which the job needs a verdict before it can go on; None if it needs none now."""
    job, phase = world.job, world.phase
    if not is_ours(job) or job.spec.suspend or phase in (*FINISHED, "Rescaling", "Suspending"):
        return None
    if phase in ACTIVE:
        return world.wanted if world.wanted != world.size else None
    waits = job.status.retry_after is not None and world.now < job.status.retry_after
    return None if waits or world.live or world.leftovers else world.wanted
