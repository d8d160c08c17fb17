"""Pods, nodes and priority classes off the wire.

Watches of a busy cluster deliver far more than the operator reads. These structures name only what it needs,
so decoding skips the rest of the JSON without building it: about 20 microseconds a pod.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import cast

import msgspec

from cra_operator import names
from cra_operator.view import Exit, NodeView, PodPhase, PodView, Taint, Waiting

_SUFFIXES = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9}
_ORDINARY_WAITING = frozenset({"", "ContainerCreating", "PodInitializing"})


class Wire(msgspec.Struct, rename="camel", frozen=True):
    """Base of all wire structures: camelCase, unknown fields skipped."""


class OwnerReference(Wire, frozen=True):
    uid: str = ""
    controller: bool = False


class Metadata(Wire, frozen=True):
    name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = "0"
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None
    owner_references: list[OwnerReference] | None = None
    creation_timestamp: datetime | None = None
    deletion_timestamp: datetime | None = None
    deletion_grace_period_seconds: int | None = None


class Resources(Wire, frozen=True):
    requests: dict[str, str | int] | None = None
    limits: dict[str, str | int] | None = None


class Container(Wire, frozen=True):
    resources: Resources | None = None


class Terminated(Wire, frozen=True):
    exit_code: int = 0
    reason: str = ""
    message: str = ""
    finished_at: datetime | None = None


class WaitingState(Wire, frozen=True):
    reason: str = ""
    message: str = ""


class ContainerState(Wire, frozen=True):
    terminated: Terminated | None = None
    waiting: WaitingState | None = None


class ContainerStatus(Wire, frozen=True):
    name: str = ""
    state: ContainerState | None = None


class Condition(Wire, frozen=True):
    type: str = ""
    status: str = ""
    reason: str = ""
    message: str = ""
    last_transition_time: datetime | None = None


class PodSpec(Wire, frozen=True):
    node_name: str = ""
    containers: list[Container] = []
    init_containers: list[Container] | None = None


class PodStatus(Wire, frozen=True):
    phase: str = "Pending"
    reason: str = ""
    message: str = ""
    conditions: list[Condition] | None = None
    container_statuses: list[ContainerStatus] | None = None
    init_container_statuses: list[ContainerStatus] | None = None


class Pod(Wire, frozen=True):
    metadata: Metadata
    spec: PodSpec = PodSpec()
    status: PodStatus = PodStatus()


class NodeTaint(Wire, frozen=True):
    key: str
    effect: str = ""
    value: str = ""


class NodeSpec(Wire, frozen=True):
    unschedulable: bool = False
    taints: list[NodeTaint] | None = None


class NodeStatus(Wire, frozen=True):
    allocatable: dict[str, str] | None = None
    conditions: list[Condition] | None = None


class Node(Wire, frozen=True):
    metadata: Metadata
    spec: NodeSpec = NodeSpec()
    status: NodeStatus = NodeStatus()


class PriorityClass(Wire, frozen=True):
    metadata: Metadata
    value: int = 0
    global_default: bool = False


class ResourceQuotaSpec(Wire, frozen=True):
    hard: dict[str, str | int] | None = None
    scopes: list[str] | None = None
    scope_selector: dict[str, object] | None = None


class ResourceQuota(Wire, frozen=True):
    metadata: Metadata
    spec: ResourceQuotaSpec = ResourceQuotaSpec()


def quota_gpus(quota: ResourceQuota) -> int | None:
    """GPUs that a quota allows all pods of its namespace; None if it says nothing of all their GPUs."""
    if quota.spec.scopes or quota.spec.scope_selector:
        return None
    hard = (quota.spec.hard or {}).get(f"requests.{names.GPU_RESOURCE}")
    return None if hard is None else _count(hard)


def _requested(container: Container) -> int:
    resources = container.resources
    if resources is None:
        return 0
    either = {**(resources.requests or {}), **(resources.limits or {})}
    return _count(either.get(names.GPU_RESOURCE, 0))


def _count(quantity: str | int) -> int:
    """A whole number as Kubernetes spells quantities: 1000 comes back as `1k`."""
    text = str(quantity)
    digits = text.rstrip("kMG")
    return int(digits) * _SUFFIXES[text[len(digits) :]]


def _gpus(spec: PodSpec) -> int:
    """What the scheduler reserves: the containers together, or the greediest init container."""
    together = sum(_requested(c) for c in spec.containers)
    return max([together, *(_requested(c) for c in spec.init_containers or ())])


def _exit_of(status: ContainerStatus) -> Exit | None:
    if status.state is None or status.state.terminated is None:
        return None
    end = status.state.terminated
    return Exit(
        container=status.name,
        code=end.exit_code,
        reason=end.reason,
        message=end.message,
        finished=end.finished_at,
    )


def _exit(status: PodStatus) -> Exit | None:
    """The trainer's end; if another container's failure ended the pod before, that one's."""
    main = [e for s in status.container_statuses or () if (e := _exit_of(s)) is not None]
    trainer = next((e for e in main if e.container == names.TRAINER_CONTAINER), None)
    if trainer is not None:
        return trainer
    init = [e for s in status.init_container_statuses or () if (e := _exit_of(s)) is not None]
    return next((e for e in [*init, *main] if e.code != 0), None)


def _waiting(status: PodStatus) -> Waiting | None:
    for container in [*(status.init_container_statuses or ()), *(status.container_statuses or ())]:
        state = container.state.waiting if container.state else None
        if state is not None and state.reason not in _ORDINARY_WAITING:
            return Waiting(reason=state.reason, message=state.message)
    return None


def _number(text: str | None) -> float:
    try:
        return float(text or 0)
    except ValueError:
        return 0.0


def pod_view(pod: Pod) -> PodView:
    """Flatten a pod. A pod without our labels keeps only what GPU accounting needs to know."""
    meta, status = pod.metadata, pod.status
    labels, annotations = meta.labels or {}, meta.annotations or {}
    conditions = {c.type: c for c in status.conditions or ()}
    scheduled, disruption = conditions.get("PodScheduled"), conditions.get("DisruptionTarget")
    ready = conditions.get("Ready")
    managed = labels.get(names.MANAGED_BY_LABEL) == names.APP
    deadline = meta.deletion_timestamp
    grace = timedelta(seconds=meta.deletion_grace_period_seconds or 0)
    generation = int(_number(labels.get(names.GENERATION_LABEL)))
    assert meta.creation_timestamp is not None, "the API server stamps every pod"
    return PodView(
        namespace=meta.namespace,
        name=meta.name,
        uid=meta.uid,
        resource_version=int(meta.resource_version),
        job=labels.get(names.JOB_LABEL, "") if managed else "",
        owner=next((owner.uid for owner in meta.owner_references or () if owner.controller), ""),
        generation=generation,
        run=int(_number(labels.get(names.RUN_LABEL))) or generation,
        rank=int(_number(labels.get(names.RANK_LABEL))),
        workers=int(_number(annotations.get(names.WORKERS_ANNOTATION))),
        joining=names.read_ranks(annotations.get(names.JOINING_ANNOTATION, "")),
        gpus=_gpus(pod.spec),
        node=pod.spec.node_name,
        phase=cast(PodPhase, status.phase),
        ready=ready is not None and ready.status == "True",
        created=meta.creation_timestamp,
        scheduled=scheduled.last_transition_time if scheduled and scheduled.status == "True" else None,
        deadline=deadline,
        deleted=deadline - grace if deadline else None,
        unschedulable=scheduled.message if scheduled and scheduled.reason == "Unschedulable" else "",
        waiting=_waiting(status),
        exit=_exit(status),
        reason=status.reason,
        message=status.message,
        disruption=disruption.reason if disruption and disruption.status == "True" else "",
    )


def node_view(node: Node) -> NodeView:
    """Flatten a node."""
    labels = node.metadata.labels or {}
    ready = next((c for c in node.status.conditions or () if c.type == "Ready"), None)
    keeps_off = ("NoSchedule", "NoExecute")
    return NodeView(
        name=node.metadata.name,
        resource_version=int(node.metadata.resource_version),
        gpus=_count((node.status.allocatable or {}).get(names.GPU_RESOURCE, 0)),
        gpu_type=labels.get(names.GPU_PRODUCT_LABEL, ""),
        ready=ready is not None and ready.status == "True",
        schedulable=not node.spec.unschedulable,
        labels=labels,
        taints=tuple(
            Taint(key=t.key, value=t.value, effect=t.effect)
            for t in node.spec.taints or ()
            if t.effect in keeps_off
        ),
    )
