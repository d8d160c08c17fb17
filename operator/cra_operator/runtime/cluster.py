"""Pods, nodes and priority classes as the operator knows them, indexed for its questions.

Two watches carry the pods: our own by label, whole lives; and everybody else's only while they are bound and
not over, which is all that free GPUs depend on. The API server does the filtering.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec

from cra_operator import names
from cra_operator.api import JobKey
from cra_operator.kube import objects, paths
from cra_operator.kube.client import KubeClient
from cra_operator.kube.reflector import Reflector
from cra_operator.view import NodeView, PodView, holds_gpus

_OURS = f"{names.MANAGED_BY_LABEL}={names.APP}"
_OTHERS = f"{names.MANAGED_BY_LABEL}!={names.APP}"
_BOUND = "status.phase!=Succeeded,status.phase!=Failed,spec.nodeName!="

PodKey = tuple[str, str]


@dataclass(frozen=True, kw_only=True)
class PriorityView:
    """A priority class: its value, and whether pods without one get it."""

    name: str
    resource_version: int
    value: int
    is_default: bool


@dataclass(frozen=True, kw_only=True)
class QuotaView:
    """A ResourceQuota: the GPUs that it allows the pods of its namespace, None if it says nothing of them."""

    namespace: str
    name: str
    resource_version: int
    gpus: int | None


def read_pod(raw: bytes) -> PodView:
    """A pod from its JSON."""
    return objects.pod_view(msgspec.json.decode(raw, type=objects.Pod))


def read_node(raw: bytes) -> NodeView:
    """A node from its JSON."""
    return objects.node_view(msgspec.json.decode(raw, type=objects.Node))


def read_priority(raw: bytes) -> PriorityView:
    """A priority class from its JSON."""
    found = msgspec.json.decode(raw, type=objects.PriorityClass)
    return PriorityView(
        name=found.metadata.name,
        resource_version=int(found.metadata.resource_version),
        value=found.value,
        is_default=found.global_default,
    )


def read_quota(raw: bytes) -> QuotaView:
    """A ResourceQuota from its JSON."""
    found = msgspec.json.decode(raw, type=objects.ResourceQuota)
    return QuotaView(
        namespace=found.metadata.namespace,
        name=found.metadata.name,
        resource_version=int(found.metadata.resource_version),
        gpus=objects.quota_gpus(found),
    )


class Cluster:
    """Caches of the cluster's state.

    Args:
        client: The API server.
        namespaces: Namespaces to watch pods in; empty means all.
        relist: Seconds between full lists.
        on_pod: Hears the key of a job one of whose pods changed.
        on_capacity: Called when GPUs may have become free, or fewer.
    """

    def __init__(
        self,
        client: KubeClient,
        *,
        namespaces: Sequence[str] = (),
        relist: float,
        on_pod: Callable[[JobKey], None],
        on_capacity: Callable[[], None],
    ) -> None:
        self._on_pod = on_pod
        self._on_capacity = on_capacity
        self._by_job: dict[JobKey, dict[PodKey, PodView]] = {}
        scopes: Sequence[str | None] = namespaces or (None,)
        self._ours = {
            scope: Reflector[PodKey, PodView](
                client,
                paths.pods(scope),
                decode=read_pod,
                key=lambda pod: pod.key,
                on_change=self._our_pod,
                params={"labelSelector": _OURS},
                relist=relist,
            )
            for scope in scopes
        }
        self._others = [
            Reflector[PodKey, PodView](
                client,
                paths.pods(scope),
                decode=read_pod,
                key=lambda pod: pod.key,
                keep=lambda pod: pod.gpus > 0,
                on_change=self._other_pod,
                params={"labelSelector": _OTHERS, "fieldSelector": _BOUND},
                relist=relist,
            )
            for scope in scopes
        ]
        self._nodes = Reflector[str, NodeView](
            client,
            paths.NODES,
            decode=read_node,
            key=lambda node: node.name,
            on_change=self._node,
            relist=relist,
        )
        self._priorities = Reflector[str, PriorityView](
            client,
            paths.PRIORITY_CLASSES,
            decode=read_priority,
            key=lambda priority: priority.name,
            on_change=lambda old, new: on_capacity(),
            relist=relist,
        )
        self._quotas = [
            Reflector[PodKey, QuotaView](
                client,
                paths.quotas(scope),
                decode=read_quota,
                key=lambda quota: (quota.namespace, quota.name),
                keep=lambda quota: quota.gpus is not None,
                on_change=lambda old, new: on_capacity(),
                relist=relist,
            )
            for scope in scopes
        ]
        self.reflectors: list[
            Reflector[PodKey, PodView]
            | Reflector[str, NodeView]
            | Reflector[str, PriorityView]
            | Reflector[PodKey, QuotaView]
        ]
        self.reflectors = [
            *self._ours.values(),
            *self._others,
            self._nodes,
            self._priorities,
            *self._quotas,
        ]

    @property
    def nodes(self) -> dict[str, NodeView]:
        """All nodes by name."""
        return self._nodes.items

    def pods_of(self, job: JobKey) -> Sequence[PodView]:
        """Pods labelled as the job's, of whatever incarnation of it."""
        return tuple(self._by_job.get(job, {}).values())

    def gpu_pods(self) -> list[PodView]:
        """All pods that request GPUs and are not over: ours, bound or not, and everybody's bound ones."""
        ours = [pod for reflector in self._ours.values() for pod in reflector.items.values() if not pod.ended]
        return ours + [pod for reflector in self._others for pod in reflector.items.values()]

    def gpu_quotas(self) -> dict[str, int]:
        """GPUs that the ResourceQuotas of a namespace leave to our jobs, where there are any."""
        left: dict[str, int] = {}
        for quota in (quota for reflector in self._quotas for quota in reflector.items.values()):
            assert quota.gpus is not None
            left[quota.namespace] = min(quota.gpus, left.get(quota.namespace, quota.gpus))
        for pod in (pod for reflector in self._others for pod in reflector.items.values()) if left else ():
            if pod.namespace in left:
                left[pod.namespace] = max(0, left[pod.namespace] - pod.gpus)
        return left

    def priority(self, name: str | None) -> int:
        """The value of a priority class, or of the default one; 0 if there is none."""
        known = self._priorities.items
        if name is not None:
            return known[name].value if name in known else 0
        return max((priority.value for priority in known.values() if priority.is_default), default=0)

    def learn(self, raw: bytes) -> None:
        """Take over a pod as the answer to a write of ours."""
        pod = read_pod(raw)
        self._our_reflector(pod.namespace).learn(pod)

    async def synced(self) -> None:
        """Wait until every cache has seen a full list."""
        await asyncio.gather(*(reflector.synced.wait() for reflector in self.reflectors))

    def _our_reflector(self, namespace: str) -> Reflector[PodKey, PodView]:
        return self._ours[None] if None in self._ours else self._ours[namespace]

    def _our_pod(self, old: PodView | None, new: PodView | None) -> None:
        known = new or old
        assert known is not None
        job = known.namespace, known.job
        if new is None:
            pods = self._by_job[job]
            del pods[known.key]
            if not pods:
                del self._by_job[job]
        else:
            self._by_job.setdefault(job, {})[new.key] = new
        if known.job:
            self._on_pod(job)
        self._other_pod(old, new)

    def _other_pod(self, old: PodView | None, new: PodView | None) -> None:
        if old is not None and holds_gpus(old) != (new is not None and holds_gpus(new)):
            self._on_capacity()

    def _node(self, old: NodeView | None, new: NodeView | None) -> None:
        if old is None or new is None or _offer(old) != _offer(new):
            self._on_capacity()


def _offer(node: NodeView) -> tuple[object, ...]:
    return node.gpus, node.ready, node.schedulable, node.taints, node.labels
