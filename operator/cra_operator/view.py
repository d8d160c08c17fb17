"""What the operator sees of the cluster, as frozen values: the input of every decision.

The wire format of pods and nodes is deep and forgiving; here it is flat and exact. A view is made once, when
an object arrives from a watch, and shared by all who look at it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal

PodPhase = Literal["Pending", "Running", "Succeeded", "Failed", "Unknown"]

LOST_NODE_GRACE = timedelta(seconds=30)
"""How long past its deletion deadline a pod on an unreachable node is still waited for."""


@dataclass(frozen=True, kw_only=True)
class Exit:
    """How a container ended.

    Attributes:
        container: Its name.
        code: Exit code; 128 + n for signal n.
        reason: Kubernetes' word for it, such as `Error` or `OOMKilled`.
        message: The termination message, or the last lines of the log.
        finished: When it ended.
    """

    container: str
    code: int
    reason: str = ""
    message: str = ""
    finished: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class Waiting:
    """Why a container has not started: `ErrImagePull`, `CreateContainerConfigError` and the like."""

    reason: str
    message: str = ""


@dataclass(frozen=True, kw_only=True)
class PodView:
    """A pod, reduced to what decisions read.

    Attributes:
        job: Name of the job that it belongs to, empty for pods that are not ours.
        owner: Uid of the object that controls it.
        generation: Number of the set of pods that it was created with.
        run: Generation with which its run began.
        rank: Its place in the run.
        workers: Pods of the run once its generation takes part.
        joining: Ranks of its generation if that joins a run; empty if it begins one.
        gpus: GPUs that it requests.
        node: Node that it is bound to, empty while unscheduled.
        scheduled: When it was bound: from then on it holds its GPUs.
        deadline: If it is being deleted, when its grace period ends.
        deleted: If it is being deleted, when that was asked for.
        unschedulable: The scheduler's words if it found no node.
        waiting: The first container that cannot start, with a reason that is not ordinary progress.
        exit: The end of the trainer container, or of the container that failed in its stead.
        reason: Pod-level reason, such as `Evicted` or `NodeLost`.
        disruption: Reason of the `DisruptionTarget` condition if it is set.
    """

    namespace: str
    name: str
    uid: str = ""
    resource_version: int = 0
    job: str = ""
    owner: str = ""
    generation: int = 0
    run: int = 0
    rank: int = 0
    workers: int = 0
    joining: tuple[int, ...] = ()
    gpus: int = 0
    node: str = ""
    phase: PodPhase = "Pending"
    ready: bool = False
    created: datetime
    scheduled: datetime | None = None
    deleted: datetime | None = None
    deadline: datetime | None = None
    unschedulable: str = ""
    waiting: Waiting | None = None
    exit: Exit | None = None
    reason: str = ""
    message: str = ""
    disruption: str = ""

    @property
    def key(self) -> tuple[str, str]:
        """(namespace, name)."""
        return self.namespace, self.name

    @property
    def deleting(self) -> bool:
        """Whether its deletion was asked for."""
        return self.deadline is not None

    @property
    def ended(self) -> bool:
        """Whether all its containers are over for good."""
        return self.phase in ("Succeeded", "Failed")


@dataclass(frozen=True, kw_only=True)
class Taint:
    """A taint that keeps pods off a node (effect NoSchedule or NoExecute)."""

    key: str
    value: str = ""
    effect: str = "NoSchedule"


@dataclass(frozen=True, kw_only=True)
class NodeView:
    """A node, reduced to what decisions read.

    Attributes:
        gpus: Allocatable GPUs.
        gpu_type: The product label.
        ready: Whether its Ready condition is true.
        schedulable: Whether it is not cordoned.
    """

    name: str
    resource_version: int = 0
    gpus: int = 0
    gpu_type: str = ""
    ready: bool = True
    schedulable: bool = True
    labels: Mapping[str, str] = field(default_factory=dict)
    taints: tuple[Taint, ...] = ()


def is_live(pod: PodView, nodes: Mapping[str, NodeView], now: datetime) -> bool:
    """Whether the pod may still be computing, so that a new generation must wait for it.

    A pod on a node that cannot be reached never reports its end; some time after its grace period it counts
    as over, since a fenced node computes nothing and the names of the next generation differ from its own.
    """
    if pod.ended:
        return False
    if pod.deadline is None or not pod.node:
        return True
    node = nodes.get(pod.node)
    reachable = node is not None and node.ready
    return reachable or now < pod.deadline + LOST_NODE_GRACE


def holds_gpus(pod: PodView) -> bool:
    """Whether the scheduler counts the pod's GPUs as taken on its node."""
    return bool(pod.node) and pod.gpus > 0 and not pod.ended
