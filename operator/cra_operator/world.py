"""Everything that a decision about one job depends on, in one frozen value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property

from cra_operator.actions import Refusal
from cra_operator.admission import Ask, Verdict, ask_for, bound_gpus
from cra_operator.api import MANAGER, MAX_AVOIDED_NODES, Job, Policy, RunStatus
from cra_operator.controller.facts import decides
from cra_operator.controller.observation import Observation
from cra_operator.controller.target import Target
from cra_operator.sizing import Size, gpus_per_worker, least, wanted
from cra_operator.stragglers import Choice, choose
from cra_operator.view import NodeView, PodView, is_live

ACTIVE = ("Starting", "Running", "Rescaling", "Suspending")
"""Phases with a run of pods at work."""
FINISHED = ("Succeeded", "Failed")


@dataclass(frozen=True)
class World:
    """What is known about a job when a decision is due.

    Attributes:
        job: The job as last read or written.
        pods: Its pods, of all runs.
        nodes: All nodes by name.
        image: Trainer image for built-in workloads.
        now: The current time.
        verdict: The answer to `asks_for`, None if it asked for nothing.
        observation: The last look at its metrics, if any.
        target: What the controller wants of it, if it has looked at the job.
        refusal: Set if a child of the last plan could not be made.
        leftovers: Pods of an earlier job of the same name that are not gone yet.
        image_pull_policy: Pull policy of the trainer image.
        policy: Who decides the sizes of jobs that name no policy.
    """

    job: Job
    pods: tuple[PodView, ...]
    nodes: Mapping[str, NodeView]
    image: str
    now: datetime
    verdict: Verdict | None = None
    observation: Observation | None = None
    target: Target | None = None
    refusal: Refusal | None = None
    leftovers: int = 0
    image_pull_policy: str = "IfNotPresent"
    policy: Policy = "static"

    @cached_property
    def generation(self) -> int:
        """The newest generation: the status's, or one that only its pods or their refusal know of."""
        return max([self._noted, self._refused, *(pod.generation for pod in self.pods)])

    @cached_property
    def run(self) -> int:
        """The generation with which the newest run began."""
        # What is refused while a run is at work was to join it; at any other time it was to begin one.
        refused = 0 if self.job.status.phase == "Running" else self._refused
        begun = self._noted if self.job.status.phase == "Starting" else 0
        return max([begun, refused, *(pod.run for pod in self.pods)]) or self._noted

    @property
    def _noted(self) -> int:
        return self.job.status.generation or 0

    @property
    def _refused(self) -> int:
        return self.refusal.generation if self.refusal is not None and not self.refusal.passing else 0

    @property
    def is_known(self) -> bool:
        """Whether the status knows of the newest generation, which it does once all its pods were created."""
        return self.generation == self._noted

    @cached_property
    def phase(self) -> str:
        """The phase, with pods of a run that the status does not know of taken into account."""
        phase = self.job.status.phase or "Pending"
        return phase if self.run <= self._noted or phase in FINISHED else "Starting"

    @property
    def elastic(self) -> bool:
        """Whether pods may join and leave the run while it trains."""
        return self.job.spec.elastic

    @cached_property
    def of_run(self) -> tuple[PodView, ...]:
        """All pods of the newest run by rank."""
        pods = (pod for pod in self.pods if pod.run == self.run)
        return tuple(sorted(pods, key=lambda pod: (pod.rank, pod.generation)))

    @cached_property
    def current(self) -> tuple[PodView, ...]:
        """The workers by rank: the pods that begin the run while it starts, then those that the status lists.

        The list in the status is the memory of who trains: a worker is taken off it in the same write that
        counts its loss or announces that it is sent away, and newcomers are put on it when they have joined.
        """
        if self.phase == "Starting":
            return tuple(pod for pod in self.of_run if pod.generation == self.run)
        listed = {worker.pod for worker in self.job.status.workers}
        return tuple(pod for pod in self.of_run if pod.name in listed)

    @cached_property
    def leader(self) -> PodView | None:
        """The pod of rank 0: without it the run is lost."""
        return next((pod for pod in self.current if pod.rank == 0), None)

    @property
    def _run_status(self) -> RunStatus:
        return self.job.status.run or RunStatus()

    @property
    def joining(self) -> int | None:
        """The generation that is about to join the run: as noted, or made just before a crash."""
        if self.phase != "Running":
            return None
        return self._run_status.joining if self.is_known else self.generation

    @cached_property
    def newcomers(self) -> tuple[PodView, ...]:
        """The pods of that generation."""
        return tuple(pod for pod in self.of_run if pod.generation == self.joining)

    @cached_property
    def strays(self) -> tuple[PodView, ...]:
        """Pods of the run that neither train nor are about to: they left, leave, or are to be sent away."""
        kept = {pod.uid for pod in (*self.current, *self.newcomers)}
        return tuple(pod for pod in self.of_run if pod.uid not in kept)

    @cached_property
    def leaving(self) -> tuple[PodView, ...]:
        """Those of them that may still compute."""
        return tuple(pod for pod in self.strays if is_live(pod, self.nodes, self.now))

    @cached_property
    def live(self) -> tuple[PodView, ...]:
        """Pods of any run that may still compute."""
        return tuple(pod for pod in self.pods if is_live(pod, self.nodes, self.now))

    @cached_property
    def wanted(self) -> Size:
        """The size that the job should have."""
        target = self.target.gpus if self.target is not None else None
        return wanted(self.job.spec.scaling, target, self.job.status.desired_gpus)

    @property
    def decided(self) -> Target | None:
        """The controller's word, where it is what sets the size that is wanted."""
        decides = (
            self.target is not None and self.target.gpus is not None and self.job.spec.scaling.gpus is None
        )
        return self.target if decides else None

    @property
    def starts_ample(self) -> bool:
        """Whether it starts with some of the idle GPUs beyond its minimum: a policy decides its size, but it
        never ran, so none knows its speed; and what proves too much it can give back while it trains.
        """
        scaling = self.job.spec.scaling
        decided = decides(scaling, self.policy) and scaling.mode == "Auto"
        return decided and self.elastic and self.generation == 0

    @property
    def gpu_type(self) -> str | None:
        """The type of GPU that new workers had best be on, if it matters."""
        told = self.target if self.target is not None else self.verdict
        return told.gpu_type if told is not None else None

    @cached_property
    def size(self) -> Size:
        """The size of the run when it is complete; what the status aims at when nothing is left to tell."""
        each = self.current[0].gpus if self.current else gpus_per_worker(self.job.spec.scaling)
        noted = self._run_status.gpus if self.run <= self._noted else None
        if noted is not None:
            return Size(workers=max(1, noted // each), gpus_per_worker=each)
        if self.current:
            return Size(workers=max(pod.workers for pod in self.current), gpus_per_worker=each)
        return self.aim

    @cached_property
    def aim(self) -> Size:
        """The size that the status aims at."""
        each = gpus_per_worker(self.job.spec.scaling)
        gpus = self.job.status.desired_gpus
        return Size(workers=gpus // each, gpus_per_worker=each) if gpus and gpus % each == 0 else self.wanted

    @cached_property
    def missing(self) -> tuple[int, ...]:
        """Ranks of the run that have no pod."""
        return tuple(sorted(set(range(self.size.workers)) - {pod.rank for pod in self.current}))

    @cached_property
    def openings(self) -> tuple[int, ...]:
        """Ranks for the next pods that join: of lost workers first, then those that the run is to grow by."""
        listed = {worker.rank for worker in self.job.status.workers}
        vacant = tuple(rank for rank in range(self.size.workers) if rank not in listed)
        return vacant or tuple(range(self.size.workers, self.wanted.workers))

    @property
    def avoided(self) -> tuple[str, ...]:
        """Nodes that pods in the place of lost workers keep away from, as others were slow there for good."""
        vacant = self.openings and self.goal == self.size
        return tuple(self._run_status.avoided_nodes or ()) if vacant else ()

    @cached_property
    def stragglers(self) -> tuple[PodView, ...]:
        """The workers that the last look at the run found slow for good, by rank."""
        seen = self.observation
        if seen is None or seen.run != self.run:
            return ()
        return tuple(pod for pod in self.current if pod.name in seen.stragglers)

    @property
    def slow_nodes(self) -> tuple[str, ...]:
        """Nodes where a worker of the run is slow for good, or was and was replaced."""
        nodes = [*(self._run_status.avoided_nodes or ()), *(pod.node for pod in self.stragglers if pod.node)]
        return tuple(dict.fromkeys(nodes))[-MAX_AVOIDED_NODES:]

    @cached_property
    def choice(self) -> Choice:
        """Which of them is to be replaced."""
        scaling = self.job.spec.scaling
        return choose(
            self.stragglers,
            policy=scaling.stragglers,
            last=self._run_status.replaced_time,
            cooldown=scaling.cooldown_seconds,
            now=self.now,
        )

    @cached_property
    def replaceable(self) -> PodView | None:
        """The straggler for which another place is asked for; none while the run is changed otherwise."""
        at_rest = self.joining is None and not self.leaving and not self.openings and self.wanted == self.size
        return self.choice.pod if self.phase == "Running" and self.elastic and at_rest else None

    @property
    def goal(self) -> Size:
        """Size of the run once the openings are filled."""
        workers = max(self.size.workers, self.openings[-1] + 1 if self.openings else 0)
        return Size(workers=workers, gpus_per_worker=self.size.gpus_per_worker)

    @property
    def reshapes(self) -> bool:
        """Whether pods of another size are wanted, which no living run can take in."""
        return self.wanted.gpus_per_worker != self.size.gpus_per_worker

    @property
    def waits(self) -> bool:
        """Whether the goal was missed lately and is not yet to be tried again."""
        retry = self.job.status.retry_after
        return retry is not None and self.now < retry and self._run_status.missed_gpus == self.goal.gpus


def is_ours(job: Job) -> bool:
    """Whether this operator looks after the job at all."""
    return job.spec.managed_by in (None, MANAGER) and job.metadata.deletion_timestamp is None


def asks_for(world: World, priority: int = 0) -> Ask | None:
    """What the job needs a verdict on before it can go on; None if it needs none now.

    A run that grows while it trains asks for the GPUs of the pods that join; every other change of size gives
    up what it holds and asks for the whole.
    """
    job, phase = world.job, world.phase
    if not is_ours(job) or job.spec.suspend or phase in (*FINISHED, "Rescaling", "Suspending"):
        return None
    if phase == "Running" and world.elastic and not world.reshapes:
        settled = world.joining is None and not world.leaving and world.wanted.workers >= world.size.workers
        if world.replaceable is not None:
            return _ask_for_another_place(world, world.replaceable, priority)
        if not settled or not world.openings or world.waits:
            return None
        extra = Size(workers=len(world.openings), gpus_per_worker=world.size.gpus_per_worker)
        return ask_for(job, extra, priority=priority, avoid=world.avoided)
    if phase in ACTIVE:
        asks = world.wanted != world.size
    else:
        backing_off = job.status.retry_after is not None and world.now < job.status.retry_after
        asks = not (backing_off or world.live or world.leftovers)
    if not asks:
        return None
    # A job at work keeps its size rather than stop for one that is not quite what is wanted.
    scaling = job.spec.scaling
    smallest = world.wanted if phase in ACTIVE else least(scaling)
    return ask_for(
        job,
        world.wanted,
        least=smallest,
        most=wanted(scaling, scaling.max_gpus) if world.starts_ample else None,
        priority=priority,
        held=bound_gpus(world.pods),
    )


def _ask_for_another_place(world: World, pod: PodView, priority: int) -> Ask:
    """GPUs as many as this worker has, on a node where no worker is or was slow for good."""
    size = Size(workers=1, gpus_per_worker=pod.gpus)
    return ask_for(world.job, size, priority=priority, avoid=world.slow_nodes, held={pod.node: pod.gpus})
