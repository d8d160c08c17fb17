"""Who may start: gang admission over the GPUs that are free, node by node.

A job starts only when all its workers fit at once, so that no job holds GPUs it cannot use. Those that ask
are taken by priority, then by age. One that does not fit is passed over and holds nothing; a smaller one
behind it may start. Room is counted as the scheduler counts it: allocatable GPUs of the nodes that the pods
may run on, less what bound pods request, less what admitted pods on their way to a node will request.

The placement here is an estimate, since the scheduler places; it is exact as long as all workers are of one
size. Where it errs (affinities, other schedulers) the pods that stay pending run into the job's startup
deadline.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from cra_operator import names
from cra_operator.api import Job, JobKey
from cra_operator.controller.facts import queue_of
from cra_operator.sizing import Size, gpus_per_worker
from cra_operator.view import NodeView, PodView, Taint, holds_gpus


@dataclass(frozen=True, kw_only=True)
class Ask:
    """A job's wish to start at a size, or to change to it.

    Attributes:
        key: The job.
        size: What it wants.
        least: What it takes if that does not fit; None if nothing else.
        most: What it takes if enough is idle, for one that never ran; None if nothing else.
        priority: Value of its priority class.
        queue: What its GPU-hours are charged to.
        created: When the job was created.
        node_selector: Labels that its nodes must have.
        tolerations: Its pods' tolerations, as in the template.
        avoid: Nodes that they keep away from.
        held: GPUs by node that it holds now and gives up for this.
    """

    key: JobKey
    size: Size
    least: Size | None = None
    most: Size | None = None
    priority: int = 0
    queue: str = ""
    created: datetime
    node_selector: Mapping[str, str] = field(default_factory=dict)
    tolerations: Sequence[Mapping[str, Any]] = ()
    avoid: frozenset[str] = frozenset()
    held: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The answer to an ask: what fits, where it stands in the queue, and the numbers in words.

    Attributes:
        size: What is set aside for the job; None if not even the least that it takes is free.
        position: Its place in the queue.
        message: Why nothing fits, or why it is more than was asked for.
        gpu_type: The type of GPU that a job which nobody has decided about had best start on, if it matters.
    """

    size: Size | None = None
    position: int = 0
    message: str = ""
    gpu_type: str | None = None

    @property
    def fits(self) -> bool:
        """Whether anything is set aside."""
        return self.size is not None


@dataclass(frozen=True, kw_only=True)
class Shares:
    """What asks depend on beside free GPUs.

    Attributes:
        room: GPUs that the jobs of a namespace may still take; a namespace that is not named may take any.
        closed: Queues that start no jobs now, and why.
        order: Place of jobs in the line among those of their priority; others stand behind them by age.
        gpu_type: The type of GPU that jobs had best start on that nobody has decided about.
        start: The part of the idle GPUs that they start with, if that is more than they ask for.
    """

    room: Mapping[str, int] = field(default_factory=dict)
    closed: Mapping[str, str] = field(default_factory=dict)
    order: Mapping[JobKey, int] = field(default_factory=dict)
    gpu_type: str | None = None
    start: float = 0.0


def ask_for(
    job: Job,
    size: Size,
    *,
    least: Size | None = None,
    most: Size | None = None,
    priority: int = 0,
    held: Mapping[str, int] | None = None,
    avoid: Iterable[str] = (),
) -> Ask:
    """The ask of this job for this size, or for what it can have between the least and the most."""
    pod: Mapping[str, Any] = (job.spec.template or {}).get("spec") or {}
    return Ask(
        key=job.key,
        size=size,
        least=least,
        most=most,
        priority=priority,
        queue=queue_of(job),
        created=job.metadata.creation_timestamp,
        node_selector=pod.get("nodeSelector") or {},
        tolerations=pod.get("tolerations") or (),
        avoid=frozenset(avoid),
        held=held or {},
    )


def alike(job: Job) -> tuple[object, ...]:
    """What the room for a job's workers depends on: jobs of which this is equal find the same."""
    pod: Mapping[str, Any] = (job.spec.template or {}).get("spec") or {}
    return gpus_per_worker(job.spec.scaling), str(pod.get("nodeSelector")), str(pod.get("tolerations"))


def bound_gpus(pods: Iterable[PodView]) -> dict[str, int]:
    """GPUs taken on each node by pods bound to it."""
    taken: dict[str, int] = {}
    for pod in pods:
        if holds_gpus(pod):
            taken[pod.node] = taken.get(pod.node, 0) + pod.gpus
    return taken


def free_gpus(nodes: Iterable[NodeView], taken: Mapping[str, int], coming: Iterable[Size]) -> dict[str, int]:
    """GPUs free on each node once the pods that were admitted but are not bound yet have found places."""
    free = {
        node.name: node.gpus - taken.get(node.name, 0) for node in nodes if node.ready and node.schedulable
    }
    for size in coming:
        _place(size, free, list(free))
    return free


_ANY = 1 << 62
"""GPUs that a namespace without a limit may take."""


def room_for(ask: Ask, nodes: Mapping[str, NodeView], free: Mapping[str, int]) -> int:
    """GPUs in whole workers of this size that fit on the nodes that they may use."""
    each = ask.size.gpus_per_worker
    return sum(gpus // each * each for name, gpus in free.items() if gpus > 0 and admits(nodes[name], ask))


def decide(
    asks: Iterable[Ask],
    nodes: Mapping[str, NodeView],
    free: Mapping[str, int],
    shares: Shares | None = None,
) -> dict[JobKey, Verdict]:
    """Answer all asks together: by priority, then in the order of the line, passing over what does not fit.

    Args:
        asks: At most one per job.
        nodes: All nodes, by name.
        free: Free GPUs by node, from `free_gpus`; nodes that are missing take no pods.
        shares: What asks depend on beside free GPUs.
    """
    shares = shares or Shares()
    left, room_of = dict(free), dict(shares.room)
    verdicts: dict[JobKey, Verdict] = {}
    position = 0
    last = len(shares.order)
    line = sorted(
        asks, key=lambda ask: (-ask.priority, shares.order.get(ask.key, last), ask.created, ask.key)
    )
    waiting = sum(_need(ask) for ask in line)
    for ask in line:
        waiting -= _need(ask)
        namespace, own = ask.key[0], sum(ask.held.values())
        may_take = room_of.get(namespace, _ANY) + own
        usable = [name for name in left if admits(nodes[name], ask)]
        for name, gpus in ask.held.items():
            if name in left:
                left[name] += gpus
        room = sum(max(0, left[name]) for name in usable)
        upto = _upto(ask, int(shares.start * (room - waiting)))
        size = None if ask.queue in shares.closed else _largest(ask, upto, left, usable, may_take)
        if size is not None:
            verdicts[ask.key] = Verdict(
                size=size,
                message=f"of {room} that were idle" if size.gpus > ask.size.gpus else "",
                # A selector may leave no choice of types.
                gpu_type=None if ask.node_selector else shares.gpu_type,
            )
            if namespace in room_of:
                room_of[namespace] += own - size.gpus
            continue
        for name, gpus in ask.held.items():
            if name in left:
                left[name] -= gpus
        waiting += _need(ask)
        position += 1
        message = shares.closed.get(ask.queue) or _explain(
            ask, room, sum(nodes[name].gpus for name in usable), may_take
        )
        verdicts[ask.key] = Verdict(position=position, message=message)
    return verdicts


def _need(ask: Ask) -> int:
    """GPUs without which the job cannot go on, beside those that it holds."""
    return max(0, (ask.least or ask.size).gpus - sum(ask.held.values()))


def _upto(ask: Ask, part: int) -> int:
    """Workers that the job may be given, if this part of the GPUs is its own to start with."""
    if ask.most is None:
        return ask.size.workers
    return max(ask.size.workers, min(ask.most.workers, part // ask.size.gpus_per_worker))


def _explain(ask: Ask, room: int, total: int, may_take: int) -> str:
    least = ask.least or ask.size
    text = f"waiting for {least}: {room} of {total} free"
    if least.gpus > total:
        return f"{text}, and the nodes that it may use have no more"
    if least.gpus > may_take:
        return f"{text}, but namespace {ask.key[0]} may take only {max(0, may_take)} more"
    if room >= least.gpus:
        return f"{text}, but not {least.gpus_per_worker} together on enough nodes"
    return text


def _largest(ask: Ask, upto: int, free: dict[str, int], usable: Sequence[str], may_take: int) -> Size | None:
    """Take the GPUs for as many workers as fit, up to this number; None if not even the least do."""
    each = ask.size.gpus_per_worker
    fit = sum(free[name] // each for name in usable if free[name] > 0)
    size = Size(workers=max(0, min(upto, fit, may_take // each)), gpus_per_worker=each)
    enough = size.workers >= (ask.least or ask.size).workers
    return size if enough and _place(size, free, usable) else None


def _place(size: Size, free: dict[str, int], usable: Sequence[str]) -> bool:
    """Take the GPUs for all workers out of `free`, fullest nodes first; take nothing if not all fit."""
    each, missing = size.gpus_per_worker, size.workers
    if sum(free[name] // each for name in usable if free[name] > 0) < missing:
        return False
    for name in sorted((n for n in usable if free[n] >= each), key=lambda n: (free[n], n)):
        workers = min(missing, free[name] // each)
        free[name] -= workers * each
        missing -= workers
        if not missing:
            break
    return True


def admits(node: NodeView, ask: Ask) -> bool:
    """Whether the job's pods may run on the node, by its name, labels and taints."""
    if node.name in ask.avoid or any(
        node.labels.get(key) != value for key, value in ask.node_selector.items()
    ):
        return False
    return all(_tolerated(taint, ask.tolerations) for taint in node.taints)


def _tolerated(taint: Taint, tolerations: Iterable[Mapping[str, Any]]) -> bool:
    if taint.key == names.GPU_RESOURCE:
        return True  # the builder of pods tolerates it in every job's name
    for toleration in tolerations:
        matches_key = toleration.get("key") in (taint.key, None)
        matches_effect = toleration.get("effect") in (taint.effect, None, "")
        matches_value = toleration.get("operator") == "Exists" or toleration.get("value", "") == taint.value
        if matches_key and matches_effect and matches_value:
            return True
    return False
