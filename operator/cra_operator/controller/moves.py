"""From what policies propose to what is done now: all jobs' changes, fitted to each other.

GPUs that one job gives up serve another, so changes belong together. A job shrinks only as far as somebody
needs its GPUs, and somebody grows only into GPUs that are free or about to be. In this order:

1. Growth that does not pay is dropped (`guard`).
2. What the rest of the growth and the waiting jobs need beyond what is free is taken from those that are
   proposed to shrink.
3. What waiting jobs still lack is taken from jobs of lower priority, down to their minimum, whatever was
   proposed and however short ago they were changed.
4. If that does not suffice, waiting jobs come first, then growth by priority and gain for each GPU.

Who shrinks where there is a choice: lower priority first, then whoever loses least by it: the pause, what a
restart may have to repeat, and the time that training takes longer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from cra_operator.controller.facts import FASTER_SMALLER, GROWTH_PAYS, Facts
from cra_operator.controller.guard import Prospect, may_grow, may_shrink, shrinks_for_itself
from cra_operator.lifecycle.words import count


@dataclass(frozen=True, kw_only=True, slots=True)
class Proposal:
    """What a policy proposes for one job that has GPUs.

    Attributes:
        facts: The job.
        prospect: The size and what it means.
        at: What any other size means.
    """

    facts: Facts
    prospect: Prospect
    at: Callable[[int], Prospect]


@dataclass(frozen=True, kw_only=True, slots=True)
class Need:
    """GPUs that a waiting job is to get."""

    facts: Facts
    gpus: int

    @property
    def lacks(self) -> int:
        """GPUs that are not free where its pods may go: those that are may be elsewhere, or scattered."""
        return max(0, self.gpus - self.facts.fits)


@dataclass(frozen=True, kw_only=True, slots=True)
class Move:
    """What is done with a job: its size from now on, the reason, and the same for people."""

    gpus: int
    reason: str
    message: str


def recommend(proposal: Proposal, hysteresis: float) -> Move:
    """The move of a job that is only told what it should do: the proposal, if the guard lets it pass."""
    move = _stay(proposal, hysteresis)
    fewer = proposal.prospect.gpus < proposal.facts.gpus
    if move.reason == GROWTH_PAYS or (fewer and may_shrink(proposal.facts) is None):
        reason = "GivesWay" if fewer else move.reason
        message = "other jobs would gain more from its GPUs than it loses" if fewer else move.message
        return Move(gpus=proposal.prospect.gpus, reason=reason, message=message)
    return move


def arrange(
    proposals: Sequence[Proposal], needs: Sequence[Need], *, free: int, hysteresis: float
) -> list[Move]:
    """Fit all changes to each other.

    Args:
        proposals: One for each job with GPUs whose size is decided.
        needs: The waiting jobs that are to start, the most important first.
        free: GPUs that nobody holds; negative if jobs hold more than there are.
        hysteresis: Least relative gain that is a reason to grow.

    Returns:
        One move for each proposal.
    """
    moves = [_stay(p, hysteresis) for p in proposals]
    growths = [
        j
        for j, p in enumerate(proposals)
        if p.prospect.gpus > p.facts.gpus and moves[j].reason == GROWTH_PAYS
    ]
    for j, p in enumerate(proposals):
        if p.prospect.gpus < p.facts.gpus and shrinks_for_itself(p.facts, p.prospect, hysteresis):
            moves[j] = Move(
                gpus=p.prospect.gpus, reason=FASTER_SMALLER, message=f"{p.prospect.gain:.0%} faster on fewer"
            )
            free += p.facts.gpus - p.prospect.gpus
    waiting = sum(need.gpus for need in needs)
    wanted = sum(proposals[j].prospect.gpus - proposals[j].facts.gpus for j in growths)
    lacks = max((need.lacks for need in needs), default=0)
    if lacks > 0:
        # However many GPUs are free, those that the one who waits cannot use are none.
        free = min(free, waiting - lacks)
    by_loss = sorted(range(len(proposals)), key=lambda j: _loss(proposals[j]))
    for j in by_loss:
        free += _give(proposals[j], moves, j, needs, lacking=(waiting, wanted, free))
    for j in by_loss:
        free += _yield(proposals[j], moves, j, needs, lacking=waiting - free)
    # What no rule frees is not promised: the waiting come first.
    left = free - waiting
    for j in sorted(growths, key=lambda j: (-proposals[j].facts.priority, -_gain_per_gpu(proposals[j]), j)):
        left -= _grow(proposals[j], moves, j, left, hysteresis)
    return moves


def _stay(proposal: Proposal, hysteresis: float) -> Move:
    """The move of a job on its own account; growth is provisional."""
    facts, prospect = proposal.facts, proposal.prospect
    if prospect.gpus > facts.gpus:
        ruling = may_grow(facts, prospect, hysteresis)
        return Move(gpus=facts.gpus, reason=ruling.reason, message=ruling.message)
    if prospect.gpus < facts.gpus:
        return Move(gpus=facts.gpus, reason="NotNeeded", message="nobody needs its GPUs now")
    if facts.changes or not facts.measured:
        kept = may_shrink(facts)
        assert kept is not None
        return Move(gpus=facts.gpus, reason=kept.reason, message=kept.message)
    return Move(gpus=facts.gpus, reason="Steady", message="this is the size that it should have")


def _give(
    proposal: Proposal, moves: list[Move], j: int, needs: Sequence[Need], *, lacking: tuple[int, int, int]
) -> int:
    """Let a job that is proposed to shrink do so as far as somebody needs its GPUs; returns what this frees.

    Args:
        proposal: The job.
        moves: All moves; the job's is replaced.
        j: Its index.
        needs: The waiting jobs.
        lacking: GPUs that waiting jobs want, that growing ones want, and that are free.
    """
    facts, prospect = proposal.facts, proposal.prospect
    waiting, growth, free = lacking
    lack = waiting + growth - free
    if lack <= 0 or prospect.gpus >= facts.gpus or moves[j].gpus != facts.gpus:
        return 0
    ruling = may_shrink(facts)
    if ruling is not None:
        moves[j] = Move(gpus=facts.gpus, reason=ruling.reason, message=ruling.message)
        return 0
    return _shrink(facts, moves, j, least=prospect.gpus, by=lack, message=_for_whom(needs, waiting > free))


def _yield(proposal: Proposal, moves: list[Move], j: int, needs: Sequence[Need], *, lacking: int) -> int:
    """Let a job make room for a waiting one of higher priority; returns what this frees."""
    facts = proposal.facts
    if lacking <= 0 or moves[j].gpus <= facts.lowest:
        return 0
    above = [need for need in needs if need.facts.priority > facts.priority]
    if not above:
        return 0
    freed = facts.gpus - moves[j].gpus
    by = freed + min(lacking, sum(need.gpus for need in above))
    return _shrink(facts, moves, j, least=facts.lowest, by=by, message=_for_whom(above, True)) - freed


def _shrink(facts: Facts, moves: list[Move], j: int, *, least: int, by: int, message: str) -> int:
    """Take whole workers, as many as needed and not below the least; returns the GPUs that this frees."""
    gpus = max(least, facts.gpus - math.ceil(by / facts.each) * facts.each)
    moves[j] = Move(gpus=gpus, reason="GivesWay", message=message)
    return facts.gpus - gpus


def _for_whom(needs: Sequence[Need], waiting: bool) -> str:
    if not needs or not waiting:
        return "other jobs gain more from its GPUs than it loses"
    first, *others = needs
    text = (
        f"{'/'.join(first.facts.key)} (priority {first.facts.priority}) waits for {count(first.gpus, 'GPU')}"
    )
    return f"{text}, and {count(len(others), 'other job')} as well" if others else text


def _loss(proposal: Proposal) -> tuple[float, ...]:
    """What giving way costs, least first: its rank, then seconds lost for each GPU that it gives."""
    facts, prospect = proposal.facts, proposal.prospect
    given = max(1, facts.gpus - prospect.gpus)
    left = prospect.remaining / prospect.rate if prospect.rate > 0 and prospect.remaining >= 0 else math.inf
    cost = facts.pause if facts.elastic else facts.pause + facts.startup + facts.unsaved
    if prospect.rate_then > 0 and math.isfinite(left):
        return facts.priority, (cost + prospect.remaining / prospect.rate_then - left) / given
    slower = 1 - prospect.rate_then / prospect.rate if prospect.rate > 0 else 1.0
    return facts.priority, math.inf, slower / given


def _gain_per_gpu(proposal: Proposal) -> float:
    return (proposal.prospect.gain or 0.0) / max(1, proposal.prospect.gpus - proposal.facts.gpus)


def _grow(proposal: Proposal, moves: list[Move], j: int, left: int, hysteresis: float) -> int:
    """Grow by what is left, in whole workers, if that still pays; returns the GPUs that this takes."""
    facts, gpus = proposal.facts, proposal.prospect.gpus
    room = facts.gpus + max(0, left) // facts.each * facts.each
    if gpus > room:
        gpus = room
        less = may_grow(facts, proposal.at(gpus), hysteresis) if gpus > facts.gpus else None
        if less is None or not less.allowed:
            moves[j] = Move(gpus=facts.gpus, reason="NoRoom", message="too few GPUs are free for it")
            return 0
        moves[j] = replace(moves[j], message=less.message)
    moves[j] = replace(moves[j], gpus=gpus)
    return gpus - facts.gpus
