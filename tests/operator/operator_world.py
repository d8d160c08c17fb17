"""A small cluster in memory for the operator's pure core: jobs, pods, nodes, and what happens to them.

It plays the API server (names, uids, owner references), the scheduler (all that fits is bound) and the
kubelet (pods start, get ready, end), as far as the operator can tell, and carries out its plans. Time only
moves when a test moves it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from cra_operator import names
from cra_operator.actions import CreatePod, DeleteJob, DeletePod, Plan, RecordEvent, Refusal
from cra_operator.admission import Shares, bound_gpus, decide, free_gpus
from cra_operator.api import Job, JobKey, JobStatus, ScalingSpec
from cra_operator.controller.observation import Observation
from cra_operator.controller.target import Target
from cra_operator.reconcile import reconcile
from cra_operator.sizing import Size
from cra_operator.view import Exit, NodeView, PodView, Waiting
from cra_operator.world import World, asks_for

START = datetime(2026, 1, 1, tzinfo=UTC)


def make_job(name: str = "digits", *, minimum: int = 1, maximum: int = 8, **spec: Any) -> Job:
    """A job as the API server would give it; keywords are fields of the spec, as on the wire."""
    scaling = {"minGPUs": minimum, "maxGPUs": maximum, **spec.pop("scaling", {})}
    if "template" not in spec:
        spec.setdefault("workload", {"name": "digits-cnn"})
    return Job.model_validate(
        {
            "metadata": {
                "name": name,
                "namespace": "default",
                "uid": f"uid-{name}",
                "generation": 1,
                "resourceVersion": "1",
                "creationTimestamp": START,
            },
            "spec": {"scaling": scaling, **spec},
        }
    )


def make_pod(rank: int = 0, *, generation: int = 1, workers: int = 2, **fields: Any) -> PodView:
    """A pod of the job `digits`, running and ready unless told otherwise."""
    base: dict[str, Any] = {
        "namespace": "default",
        "name": f"digits-{generation}-{rank}",
        "uid": f"uid-digits-{generation}-{rank}",
        "owner": "uid-digits",
        "job": "digits",
        "generation": generation,
        "run": generation,
        "rank": rank,
        "workers": workers,
        "gpus": 1,
        "node": "gpu-0",
        "phase": "Running",
        "ready": True,
        "created": START,
        "scheduled": START,
    }
    return PodView(**(base | fields))


def ended(pod: PodView, code: int, *, at: datetime = START, message: str = "", reason: str = "") -> PodView:
    """The same pod after its container exited."""
    end = Exit(container="trainer", code=code, message=message, reason=reason, finished=at)
    return replace(pod, phase="Failed" if code else "Succeeded", ready=False, exit=end)


def make_node(name: str = "gpu-0", gpus: int = 8, **fields: Any) -> NodeView:
    """A ready GPU node."""
    return NodeView(**{"name": name, "gpus": gpus, "gpu_type": "A100", **fields})


def _nodes_ruled_out(spec: dict[str, Any]) -> set[str]:
    """Nodes whose names all terms of a pod's node affinity rule out."""
    affinity = spec.get("affinity", {}).get("nodeAffinity", {})
    required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution", {})
    fields = [term.get("matchFields", []) for term in required.get("nodeSelectorTerms", [])]
    return set.intersection(*({one["values"][0] for one in term} for term in fields)) if fields else set()


class MiniCluster:
    """Jobs, pods and nodes, and the operator's decisions about them."""

    def __init__(self, *nodes: NodeView) -> None:
        self.now = START
        self.nodes = {node.name: node for node in nodes or (make_node(),)}
        self.jobs: dict[JobKey, Job] = {}
        self.pods: dict[tuple[str, str], PodView] = {}
        self.events: list[RecordEvent] = []
        self.observations: dict[JobKey, Observation] = {}
        self.targets: dict[JobKey, Target] = {}
        self.idle_part = 0.0
        self.look_again: dict[JobKey, datetime | None] = {}
        self._uids = itertools.count()
        self._kept_away: dict[tuple[str, str], set[str]] = {}

    # --- what users do --------------------------------------------------------------------------------------

    def apply(self, job: Job) -> JobKey:
        """Create a job."""
        self.jobs[job.key] = job
        return job.key

    def edit(self, key: JobKey, **spec: Any) -> None:
        """Change fields of the spec, or of its scaling, by their Python names."""
        job = self.jobs[key]
        scaling = {name: spec.pop(name) for name in ScalingSpec.model_fields if name in spec}
        if scaling:
            spec["scaling"] = job.spec.scaling.model_copy(update=scaling)
        meta = job.metadata.model_copy(update={"generation": job.metadata.generation + 1})
        self.jobs[key] = job.model_copy(update={"metadata": meta, "spec": job.spec.model_copy(update=spec)})

    def status(self, key: JobKey) -> JobStatus:
        """The job's status."""
        return self.jobs[key].status

    # --- what the operator does -----------------------------------------------------------------------------

    def world(self, key: JobKey, refusal: Refusal | None = None) -> World:
        """All that the operator knows when it looks at a job, the verdict on what it asks for included."""
        job = self.jobs[key]
        return self._with_verdict(
            World(
                job=job,
                pods=self.pods_of(key),
                nodes=self.nodes,
                image="trainer:1",
                observation=self.observations.get(key),
                target=self.targets.get(key),
                refusal=refusal,
                now=self.now,
            )
        )

    def _with_verdict(self, world: World) -> World:
        asks = []
        for job in self.jobs.values():
            about = World(
                job=job,
                pods=self.pods_of(job.key),
                nodes=self.nodes,
                image="",
                observation=self.observations.get(job.key),
                target=self.targets.get(job.key),
                now=self.now,
            )
            ask = asks_for(about)
            if ask is not None:
                asks.append(ask)
        everyone = list(self.pods.values())
        coming = [
            Size(workers=1, gpus_per_worker=pod.gpus) for pod in everyone if not pod.node and not pod.ended
        ]
        free = free_gpus(self.nodes.values(), bound_gpus(everyone), coming)
        found = decide(asks, self.nodes, free, Shares(start=self.idle_part))
        return replace(world, verdict=found.get(world.job.key))

    def reconcile(self, key: JobKey, *, crash_after: int | None = None) -> Plan:
        """Decide about one job and do what the plan says.

        Args:
            key: The job.
            crash_after: Stop after so many of the plan's steps, as if the operator died there.
        """
        plan = reconcile(self.world(key))
        steps = [
            *(action for action in plan.actions if isinstance(action, CreatePod)),
            plan.status,
            *(action for action in plan.actions if isinstance(action, DeletePod | DeleteJob)),
        ]
        for step in steps[:crash_after]:
            if isinstance(step, CreatePod):
                self._create(step)
            elif isinstance(step, DeletePod):
                self._delete(step)
            elif isinstance(step, DeleteJob):
                self._delete_job(key)
            elif key in self.jobs:
                # What the API server stores has lost nothing that matters by being written as JSON.
                stored = JobStatus.model_validate(step.wire())
                self.jobs[key] = self.jobs[key].model_copy(update={"status": stored})
        if crash_after is None or crash_after > len(steps):
            self.events += [action for action in plan.actions if isinstance(action, RecordEvent)]
        self.look_again[key] = plan.look_again
        return plan

    def settle(self, *keys: JobKey) -> None:
        """Reconcile until nothing changes any more, without letting time pass."""
        for _ in range(20):
            before = (dict(self.jobs), dict(self.pods))
            for key in keys or list(self.jobs):
                if key in self.jobs:
                    self.reconcile(key)
            if (self.jobs, self.pods) == before:
                return
        raise AssertionError("the operator never comes to rest")

    def _create(self, action: CreatePod) -> None:
        manifest = action.manifest
        meta, spec = manifest["metadata"], manifest["spec"]
        key = meta["namespace"], meta["name"]
        if key in self.pods:
            return  # 409: it is the one that was meant
        limits = spec["containers"][0]["resources"]["limits"]
        self._kept_away[key] = _nodes_ruled_out(spec)
        self.pods[key] = PodView(
            namespace=meta["namespace"],
            name=meta["name"],
            uid=f"pod-{next(self._uids)}",
            owner=meta["ownerReferences"][0]["uid"],
            job=meta["labels"][names.JOB_LABEL],
            generation=int(meta["labels"][names.GENERATION_LABEL]),
            rank=int(meta["labels"][names.RANK_LABEL]),
            run=int(meta["labels"][names.RUN_LABEL]),
            workers=int(meta["annotations"][names.WORKERS_ANNOTATION]),
            joining=names.read_ranks(meta["annotations"].get(names.JOINING_ANNOTATION, "")),
            gpus=int(limits[names.GPU_RESOURCE]),
            created=self.now,
        )

    def _delete(self, action: DeletePod) -> None:
        pod = self.pods.get((action.namespace, action.name))
        if pod is not None and pod.uid == action.uid:
            self._terminate(pod)

    def _terminate(self, pod: PodView) -> None:
        if pod.ended or not pod.node:
            del self.pods[pod.key]
        elif not pod.deleting:
            grace = timedelta(seconds=60)
            self.pods[pod.key] = replace(pod, deleted=self.now, deadline=self.now + grace)

    def _delete_job(self, key: JobKey) -> None:
        del self.jobs[key]
        for pod in self.pods_of(key):
            del self.pods[pod.key]

    # --- what happens in the cluster ------------------------------------------------------------------------

    def pods_of(self, key: JobKey) -> tuple[PodView, ...]:
        """The job's pods."""
        return tuple(pod for pod in self.pods.values() if (pod.namespace, pod.job) == key)

    def newest(self, key: JobKey) -> list[PodView]:
        """Pods of the job's newest run by rank."""
        pods = self.pods_of(key)
        run = max((pod.run for pod in pods), default=0)
        return sorted((pod for pod in pods if pod.run == run), key=lambda pod: (pod.rank, pod.generation))

    def change(self, pod: PodView, **fields: Any) -> PodView:
        """Something happened to a pod."""
        self.pods[pod.key] = replace(self.pods[pod.key], **fields)
        return self.pods[pod.key]

    def schedule(self) -> None:
        """Bind every pod that fits."""
        for pod in sorted(self.pods.values(), key=lambda pod: pod.key):
            if pod.node or pod.ended:
                continue
            taken = bound_gpus(self.pods.values())
            for node in self.nodes.values():
                if node.name in self._kept_away.get(pod.key, ()):
                    continue
                if node.ready and node.gpus - taken.get(node.name, 0) >= pod.gpus:
                    self.change(pod, node=node.name, scheduled=self.now, unschedulable="")
                    break
            else:
                self.change(pod, unschedulable="0/1 nodes are available: 1 Insufficient nvidia.com/gpu.")

    def start(self, pods: Iterable[PodView]) -> None:
        """Their containers run and are ready."""
        for pod in pods:
            if self.pods[pod.key].node and not self.pods[pod.key].ended:
                self.change(pod, phase="Running", ready=True, waiting=None)

    def run(self, key: JobKey) -> None:
        """Bring a job that was just admitted to Running."""
        self.settle(key)
        self.schedule()
        self.start(self.newest(key))
        self.settle(key)

    def exit(self, pod: PodView, code: int, message: str = "", reason: str = "") -> None:
        """The pod's container exits."""
        self.pods[pod.key] = ended(self.pods[pod.key], code, at=self.now, message=message, reason=reason)

    def stuck(self, pod: PodView, reason: str, message: str = "") -> None:
        """The pod's container cannot start."""
        self.change(pod, waiting=Waiting(reason=reason, message=message))

    def vanish(self, pod: PodView) -> None:
        """The pod is gone from the API server."""
        self.pods.pop(pod.key, None)

    def obey(self, key: JobKey, code: int = 143) -> None:
        """Pods that were told to leave exit and are removed, as a kubelet does."""
        for pod in self.pods_of(key):
            if pod.deleting:
                self.exit(pod, code)
        self.settle(key)
        for pod in self.pods_of(key):
            if pod.deleting:
                self.vanish(pod)
        self.settle(key)

    def wait(self, seconds: float) -> None:
        """Time passes."""
        self.now += timedelta(seconds=seconds)
