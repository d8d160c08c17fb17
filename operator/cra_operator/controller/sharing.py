"""Who may hold how much, before any policy is asked: quotas, budgets, and the order of those that wait.

Waiting jobs get their turn by priority. Among equals goes first whose namespace stays within its quota, then
whose queue has used least lately, then the older one. What was used counts half after each half-life, for
each unit of the queue's weight: so turns go round among queues, and who was served more waits longer.

What a job used when is not recorded; its GPU-seconds are taken as spread evenly from its start until now
or its end. That needs no memory but the jobs' own statuses.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from cra_operator.api import Job, JobKey
from cra_operator.controller.facts import Facts, queue_of
from cra_operator.lifecycle.words import count


@dataclass(frozen=True, kw_only=True, slots=True)
class Quota:
    """GPUs that a namespace's jobs may hold together; with `borrow` also more, while nobody needs them."""

    gpus: int
    borrow: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class Queue:
    """A queue: its budget, None for no limit, and its weight against other queues."""

    gpu_hours: float | None = None
    weight: float = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Rules:
    """How the cluster is shared.

    Attributes:
        quotas: By namespace; one without may hold anything.
        limits: GPUs that a namespace's ResourceQuotas leave to its jobs; one without may hold anything.
        queues: By name; one without has weight 1 and no budget.
        half_life: Seconds after which what was used counts half.
    """

    quotas: Mapping[str, Quota] = field(default_factory=dict)
    limits: Mapping[str, int] = field(default_factory=dict)
    queues: Mapping[str, Queue] = field(default_factory=dict)
    half_life: float = 24 * 3600.0

    def nominal(self, namespace: str) -> float:
        """GPUs that are the namespace's own; infinite without a quota."""
        quota = self.quotas.get(namespace)
        return math.inf if quota is None else quota.gpus

    def queue(self, name: str) -> Queue:
        """The queue of this name."""
        return self.queues.get(name, _ANY)


_ANY = Queue()


def allowances(jobs: Iterable[Facts], rules: Rules, capacity: int) -> dict[str, int]:
    """GPUs that the jobs of each limited namespace may hold together now.

    What a namespace borrows is what the others leave: of their quotas, all that their jobs could use is kept
    for them.

    Args:
        jobs: All unfinished jobs.
        rules: How the cluster is shared.
        capacity: GPUs that the jobs may have together.
    """
    demand: dict[str, int] = {}
    for job in jobs:
        demand[job.key[0]] = demand.get(job.key[0], 0) + (job.highest if job.decides else job.gpus)
    kept = {name: min(quota.gpus, demand.get(name, 0)) for name, quota in rules.quotas.items()}
    allowed = {
        name: max(quota.gpus, capacity - sum(kept.values()) + kept[name]) if quota.borrow else quota.gpus
        for name, quota in rules.quotas.items()
    }
    for name, most in rules.limits.items():
        allowed[name] = min(most, allowed.get(name, most))
    return allowed


@dataclass(frozen=True, kw_only=True, slots=True)
class Turn:
    """A waiting job's place: whether it may start once its GPUs are free, and if not, why."""

    facts: Facts
    admitted: bool
    message: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Accounts:
    """What was used so far.

    Attributes:
        recent: GPU-seconds by queue, those of long ago counting less.
        spent: GPU-seconds by queue.
    """

    recent: Mapping[str, float] = field(default_factory=dict)
    spent: Mapping[str, float] = field(default_factory=dict)


def accounts(jobs: Iterable[Job], *, half_life: float, now: datetime) -> Accounts:
    """What the jobs that exist have used, finished ones included.

    A GPU-second of t seconds ago counts 2^(-t / half_life). With an even rate r from `a` until `b` seconds
    ago that makes r * half_life / ln 2 * (2^(-b / half_life) - 2^(-a / half_life)).
    """
    recent: dict[str, float] = {}
    spent: dict[str, float] = {}
    for job in jobs:
        status, queue = job.status, queue_of(job)
        if not status.gpu_seconds or status.start_time is None:
            continue
        a = (now - status.start_time).total_seconds()
        b = (now - (status.completion_time or now)).total_seconds()
        spent[queue] = spent.get(queue, 0.0) + status.gpu_seconds
        if a > b:
            rate = status.gpu_seconds / (a - b)
            used = rate * half_life / math.log(2) * (2.0 ** (-b / half_life) - 2.0 ** (-a / half_life))
            recent[queue] = recent.get(queue, 0.0) + used
    return Accounts(recent=recent, spent=spent)


def line_up(jobs: Iterable[Facts], rules: Rules, used: Accounts, *, capacity: int) -> list[Turn]:
    """Put the waiting jobs in order and say which of them may start.

    Args:
        jobs: All unfinished jobs.
        rules: How the cluster is shared.
        used: What queues have used.
        capacity: GPUs that the jobs may have together.

    Returns:
        One turn for each waiting job, the first in line in front.
    """
    jobs = list(jobs)
    recent = dict(used.recent)
    held: dict[str, int] = {}
    for job in jobs:
        if not job.waits:
            held[job.key[0]] = held.get(job.key[0], 0) + least(job)
    left = capacity - sum(held.values())
    allowed = allowances(jobs, rules, capacity)
    turns = []
    line = [(_place(job, rules, recent, held), job) for job in jobs if job.waits]
    heapq.heapify(line)
    while line:
        place, job = heapq.heappop(line)
        now = _place(job, rules, recent, held)
        if now > place and line and now > line[0][0]:
            heapq.heappush(line, (now, job))  # others were let in since: it has to stand back
            continue
        need, namespace = least(job), job.key[0]
        message = _spent(job.queue, rules, used) or _full(namespace, need, held.get(namespace, 0), allowed)
        admitted = not message and need <= left
        turns.append(Turn(facts=job, admitted=admitted, message=message))
        if admitted:
            left -= need
            held[namespace] = held.get(namespace, 0) + need
            recent[job.queue] = recent.get(job.queue, 0.0) + need * _TURN_SECONDS
    return turns


_TURN_SECONDS = 60.0
"""What a job that is let in is taken to use at once, so that queues without any history take turns."""


def least(job: Facts) -> int:
    """GPUs that a job cannot do without: what it is told to have, or its minimum."""
    return job.lowest if job.decides and job.acts else job.gpus


def _place(
    job: Facts, rules: Rules, recent: Mapping[str, float], held: Mapping[str, int]
) -> tuple[float, bool, float, float, JobKey]:
    namespace = job.key[0]
    borrows = held.get(namespace, 0) + least(job) > rules.nominal(namespace)
    share = recent.get(job.queue, 0.0) / rules.queue(job.queue).weight
    return -job.priority, borrows, share, -job.age, job.key


def _spent(queue: str, rules: Rules, used: Accounts) -> str:
    """That the budget of a queue is used up, in words; empty while it is not."""
    hours = rules.queue(queue).gpu_hours
    spent = hours is not None and used.spent.get(queue, 0.0) >= hours * 3600
    return f"the {hours:g} GPU-hours of queue {queue} are used up" if spent else ""


def _full(namespace: str, need: int, held: int, allowed: Mapping[str, int]) -> str:
    """That a namespace may not hold so many more, in words; empty if it may."""
    if namespace not in allowed or held + need <= allowed[namespace]:
        return ""
    return f"namespace {namespace} may hold {count(allowed[namespace], 'GPU')} now, and {held} are taken"


def ceiling(job: Facts, rules: Rules, used: Accounts) -> int:
    """Most GPUs that a job may be given now: its maximum, its minimum once its queue's budget is used up."""
    return job.lowest if _spent(job.queue, rules, used) else job.highest


@dataclass(frozen=True, kw_only=True, slots=True)
class Standing:
    """What the sharing of the cluster comes to, for those who admit jobs one by one until the next decision.

    Attributes:
        allowed: GPUs that the jobs of a namespace may hold together, for those that are limited.
        closed: Queues that start no jobs, and why.
        order: Place of the waiting jobs in the line.
        gpu_type: The type of GPU that jobs had best start on that nobody has decided about.
    """

    allowed: Mapping[str, int] = field(default_factory=dict)
    closed: Mapping[str, str] = field(default_factory=dict)
    order: Mapping[JobKey, int] = field(default_factory=dict)
    gpu_type: str | None = None


def standing(
    jobs: Iterable[Facts], turns: Sequence[Turn], rules: Rules, used: Accounts, capacity: int
) -> Standing:
    """What follows from the line for those who admit.

    Args:
        jobs: All unfinished jobs.
        turns: The line.
        rules: How the cluster is shared.
        used: What queues have used.
        capacity: GPUs that the jobs may have together.
    """
    closed = {name: _spent(name, rules, used) for name in rules.queues}
    return Standing(
        allowed=allowances(jobs, rules, capacity),
        closed={name: why for name, why in closed.items() if why},
        order={turn.facts.key: place for place, turn in enumerate(turns)},
    )


def start_estimates(
    turns: Sequence[Turn], ends: Iterable[tuple[float, int]], free: int
) -> dict[JobKey, float]:
    """When the waiting jobs are expected to start, in seconds from now.

    Args:
        turns: The line.
        ends: Of each job that runs, the seconds until it ends and the GPUs that it then gives back.
        free: GPUs that nobody holds.

    Returns:
        Seconds for the jobs in front of which no job of unknown end stands in the way.
    """
    coming = sorted(ends)
    estimates: dict[JobKey, float] = {}
    at, next_ = 0.0, 0
    for turn in turns:
        if turn.message:
            continue
        need = least(turn.facts)
        while free < need and next_ < len(coming):
            at, gpus = coming[next_]
            free += gpus
            next_ += 1
        if free < need:
            break
        free -= need
        estimates[turn.facts.key] = at
    return estimates
