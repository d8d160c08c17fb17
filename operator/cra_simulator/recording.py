"""What a policy decided, and when: the story behind a result.

A wrapper, as `cra_simulator.blur` is, so that any policy can be watched and the simulation need not know.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from cra_operator.controller.policy import ClusterObservation, Decision, Floats, Ints, Policy
from cra_simulator.comparison import Setting, play
from cra_simulator.result import Result
from cra_simulator.schedulers import scheduler_of
from cra_simulator.workload import TraceJob


@dataclass(frozen=True, kw_only=True, slots=True)
class Moment:
    """One decision.

    Attributes:
        time: When.
        ids: The jobs, as their places in the workload, [J].
        gpus: What each was given, [J].
        kind: Of which type, [J].
        weight: What attention each got, [J]; None where the policy does not say.
    """

    time: float
    ids: Ints
    gpus: Ints
    kind: Ints
    weight: Floats | None


class Recorded:
    """A policy that is watched.

    Attributes:
        moments: Its decisions, in order.
    """

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self.moments: list[Moment] = []

    def decide(self, seen: ClusterObservation) -> Decision:
        """See `Policy.decide`."""
        decision = self._policy.decide(seen)
        # NB: what is seen are views of what goes on changing.
        self.moments.append(
            Moment(
                time=seen.time,
                ids=seen.ids.copy(),
                gpus=seen.sizes.gpus[decision.choice],
                kind=seen.sizes.kind[decision.choice],
                weight=decision.weight,
            )
        )
        return decision


def replay(jobs: Sequence[TraceJob], policy: str, setting: Setting) -> tuple[list[Span], Result]:
    """Run a workload and tell the life of every job.

    Raises:
        DataError: There is no such policy.
    """
    watched = Recorded(scheduler_of(policy).make())
    result = play(jobs, policy, watched, setting)
    return spans(watched.moments, jobs, result), result


@dataclass(frozen=True, kw_only=True, slots=True)
class Span:
    """A job at one size, from one time to another.

    Attributes:
        job: Its place in the workload.
        start: Seconds since the clock began.
        end: Likewise.
        gpus: What it had; 0 while it waited.
        kind: Of which type.
        weight: What attention it got when that was decided; None where the policy does not say.
    """

    job: int
    start: float
    end: float
    gpus: int
    kind: int
    weight: float | None


def spans(moments: Sequence[Moment], jobs: Sequence[TraceJob], result: Result) -> list[Span]:
    """The life of every job in order of submission: a first span from its submission to the first decision,
    then one for each size.
    """
    lives = [
        [Span(job=i, start=job.submitted, end=done.finished, gpus=0, kind=0, weight=None)]
        for i, (job, done) in enumerate(zip(jobs, result.jobs, strict=True))
    ]
    for moment in moments:
        weights = [None] * len(moment.ids) if moment.weight is None else moment.weight.tolist()
        rows = zip(moment.ids.tolist(), moment.gpus.tolist(), moment.kind.tolist(), weights, strict=True)
        for job, gpus, kind, weight in rows:
            last = lives[job][-1]
            if (last.gpus, last.kind) != (gpus, kind):
                lives[job][-1] = replace(last, end=moment.time)
                span = Span(job=job, start=moment.time, end=last.end, gpus=gpus, kind=kind, weight=weight)
                lives[job].append(span)
    return [span for life in lives for span in life if span.end > span.start]
