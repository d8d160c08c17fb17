"""One tick of the controller as a pure function: from what is seen of all jobs to a target for each.

    line up (sharing) ▸ propose (policies) ▸ guard and fit (guard, moves) ▸ explain

Nothing is remembered between ticks: what a decision needs of the past stands in the jobs' statuses.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial

import numpy as np

from cra_operator.api import JobKey
from cra_operator.controller.facts import Facts
from cra_operator.controller.guard import Prospect
from cra_operator.controller.moves import Move, Need, Proposal, arrange, recommend
from cra_operator.controller.policy import ClusterObservation
from cra_operator.controller.proposing import Consult, Proposed, propose, trim
from cra_operator.controller.sharing import (
    Accounts,
    Rules,
    Standing,
    Turn,
    allowances,
    ceiling,
    least,
    line_up,
    standing,
    start_estimates,
)
from cra_operator.controller.target import Target

_ALL = 0.995
"""Attention that goes without saying: the job is the only one."""
_ESTIMATE_STEP = 10.0
"""Start estimates are rounded to so many seconds: finer ones would be news at every tick."""


@dataclass(frozen=True, kw_only=True)
class Look:
    """All that a tick knows.

    Attributes:
        facts: The jobs that have GPUs or want some.
        seen: The same jobs, in the same order.
        rules: How the cluster is shared.
        used: What queues have used.
        hysteresis: Least relative gain that is a reason to grow.
        now: The time.
    """

    facts: Sequence[Facts]
    seen: ClusterObservation
    rules: Rules
    used: Accounts
    hysteresis: float
    now: datetime


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a tick decides.

    Attributes:
        targets: What is wanted of each job.
        standing: What limits those who admit jobs.
        troubles: Policies that could not decide, and why.
    """

    targets: Mapping[JobKey, Target]
    standing: Standing
    troubles: Mapping[str, str]


def decide(look: Look, consult: Consult) -> Outcome:
    """Decide about all jobs.

    Args:
        look: What is seen.
        consult: Asks a policy.
    """
    facts, seen = look.facts, look.seen
    capacity = int(seen.capacity.sum())
    most = seen.rate.max(axis=1, initial=0.0)
    able = [job for j, job in enumerate(facts) if most[j] > 0 or not job.waits]
    turns = line_up(able, look.rules, look.used, capacity=capacity)
    admitted = [turn.facts for turn in turns if turn.admitted]
    let_in = {job.key for job in admitted}
    asked = [
        j
        for j, job in enumerate(facts)
        if job.decides and (job.key in let_in if job.waits else job.measured or job.changes)
    ]
    about = set(asked)
    others = sum(
        least(job) if job.waits else job.gpus
        for j, job in enumerate(facts)
        if j not in about and (not job.waits or job.key in let_in)
    )
    found = propose(
        seen,
        facts,
        asked,
        capacity=max(0, capacity - others),
        ceilings={j: ceiling(facts[j], look.rules, look.used) for j in asked},
        consult=consult,
    )
    _keep_quotas(look, asked, found, capacity)
    free = capacity - sum(job.gpus for job in facts if not job.waits)
    prospects = _Prospects(seen)
    moves = _moves(look, found, prospects, admitted, free)
    ends = [(job.eta, job.gpus) for job in facts if not job.waits and job.eta is not None]
    starts = start_estimates(turns, ends, free)
    targets = {
        job.key: _target(look, j, found, prospects, moves.get(j), starts.get(job.key))
        for j, job in enumerate(facts)
    }
    held_back = {turn.facts.key: turn for turn in turns if not turn.admitted}
    for key, turn in held_back.items():
        targets[key] = _waits(turn, targets[key])
    return Outcome(
        targets=targets,
        standing=standing(facts, turns, look.rules, look.used, capacity),
        troubles=found.troubles,
    )


def _keep_quotas(look: Look, rows: Sequence[int], found: Proposed, capacity: int) -> None:
    """No namespace is proposed more than it may hold."""
    for namespace, most in allowances(look.facts, look.rules, capacity).items():
        mine = {j: found.gpus[j] for j in rows if look.facts[j].key[0] == namespace}
        fixed = sum(
            job.gpus
            for j, job in enumerate(look.facts)
            if job.key[0] == namespace and j not in mine and not job.waits
        )
        found.gpus.update(trim(mine, look.facts, look.seen, most - fixed))


def _moves(
    look: Look, found: Proposed, prospects: _Prospects, admitted: Sequence[Facts], free: int
) -> dict[int, Move]:
    """The move of every job that has GPUs and whose size is decided."""
    proposals: dict[int, Proposal] = {}
    for j, job in enumerate(look.facts):
        if job.decides and not job.waits:
            at = partial(prospects.at, j)
            proposals[j] = Proposal(facts=job, prospect=at(found.gpus.get(j, job.gpus)), at=at)
    acting = [j for j in proposals if look.facts[j].acts]
    moves = arrange(
        [proposals[j] for j in acting],
        [Need(facts=job, gpus=least(job)) for job in admitted],
        free=free,
        hysteresis=look.hysteresis,
    )
    advised = {j: recommend(proposals[j], look.hysteresis) for j in proposals if not look.facts[j].acts}
    return advised | dict(zip(acting, moves, strict=True))


class _Prospects:
    """What sizes mean for jobs."""

    def __init__(self, seen: ClusterObservation) -> None:
        self._rate = seen.rate
        self._now = seen.rate[np.arange(len(seen)), seen.current].tolist()
        self._remaining = seen.remaining.tolist()
        self._columns: dict[int, list[int]] = {}
        for column, gpus in enumerate(seen.sizes.gpus.tolist()):
            self._columns.setdefault(gpus, []).append(column)

    def at(self, j: int, gpus: int) -> Prospect:
        """What so many GPUs mean for a job, on the type that suits it best."""
        rates = [float(self._rate[j, column]) for column in self._columns.get(gpus, ())]
        return Prospect(
            gpus=gpus,
            rate=self._now[j],
            rate_then=max(rates, default=0.0),
            remaining=self._remaining[j],
        )


def _target(
    look: Look, j: int, found: Proposed, prospects: _Prospects, move: Move | None, start: float | None
) -> Target:
    """A job's target, in words."""
    job = look.facts[j]
    policy, weight = found.by.get(j, job.policy), found.weight.get(j)
    at = None
    if start is not None:
        at = look.now + timedelta(seconds=math.ceil(start / _ESTIMATE_STEP) * _ESTIMATE_STEP)
    if move is None:
        # It waits, or nobody decides about it: a policy says what it goes on with, admission what fits, and
        # what one starts with that never ran.
        gpus = found.gpus.get(j) if job.acts and job.ran else None
        return Target(gpus=gpus, policy=policy, weight=weight, start=at)
    gain = None
    if move.gpus != job.gpus:
        gain = prospects.at(j, move.gpus).gain
    message = f"{policy}{_stands_in(job, policy)}: {_in_words(job, move, found.gpus.get(j))}"
    if weight is not None and weight < _ALL:
        message += f" (attention {weight:.2f})"
    return Target(
        gpus=move.gpus if job.acts else None,
        reason=move.reason,
        message=message,
        policy=policy,
        recommended=None if job.acts else move.gpus,
        gain=gain,
        weight=weight,
    )


def _stands_in(job: Facts, policy: str) -> str:
    return "" if policy == job.policy else f" (instead of {job.policy})"


def _in_words(job: Facts, move: Move, proposed: int | None) -> str:
    if move.gpus != job.gpus or proposed is None or proposed == job.gpus:
        return move.message
    return f"{proposed} would be next, but {move.message}"


def _waits(turn: Turn, target: Target) -> Target:
    return Target(policy=target.policy, message=turn.message, start=target.start)
