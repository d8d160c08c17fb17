"""What a policy decided, and when: the story behind a result.

A wrapper, as `cra_simulator.blur` is, so that any policy can be watched and the simulation need not know.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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
    """A job at one size, from one time to another, in seconds; `gpus` 0 while it waits."""

    job: int
    start: float
    end: float
    gpus: int
    kind: int


def spans(moments: Sequence[Moment], jobs: Sequence[TraceJob], result: Result) -> list[Span]:
    """The life of every job in order of submission: a first span from its submission to the first decision,
    then one for each size.
    """
    sizes: list[list[tuple[float, int, int]]] = [[(job.submitted, 0, 0)] for job in jobs]
    for moment in moments:
        rows = zip(moment.ids.tolist(), moment.gpus.tolist(), moment.kind.tolist(), strict=True)
        for job, gpus, kind in rows:
            if sizes[job][-1][1:] != (gpus, kind):
                sizes[job].append((moment.time, gpus, kind))
    found = []
    for job, (steps, done) in enumerate(zip(sizes, result.jobs, strict=True)):
        ends = [start for start, _, _ in steps[1:]] + [done.finished]
        found += [
            Span(job=job, start=start, end=end, gpus=gpus, kind=kind)
            for (start, gpus, kind), end in zip(steps, ends, strict=True)
            if end > start
        ]
    return found
