"""Policies that see badly: what is measured is late and noisy, and what is declared is wrong.

A wrapper, so that every policy can be tested for it and none needs to know.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from cra_operator.controller.policy import ClusterObservation, Decision, Floats, Policy


class Blurred:
    """A policy behind frosted glass.

    Args:
        policy: Who decides.
        rate_sigma: Error of goodput and throughput, drawn anew for every job, size and look: the standard
            deviation of its logarithm.
        work_sigma: Error of the remaining work, drawn once for every job: likewise.
        delay_seconds: How old goodput, throughput and remaining work are; a job that is younger is seen as it
            is.
        seed: Of all draws.
    """

    def __init__(
        self,
        policy: Policy,
        *,
        rate_sigma: float = 0.0,
        work_sigma: float = 0.0,
        delay_seconds: float = 0.0,
        seed: int = 0,
    ) -> None:
        self._policy = policy
        self._rate_sigma = rate_sigma
        self._work_sigma = work_sigma
        self._delay = delay_seconds
        self._random = np.random.default_rng(seed)
        self._work_error: dict[int, float] = {}
        self._past: list[ClusterObservation] = []

    def decide(self, seen: ClusterObservation) -> Decision:
        """See `Policy.decide`."""
        if self._delay:
            seen = self._late(seen)
        if self._rate_sigma:
            seen = replace(seen, rate=self._noisy(seen.rate), throughput=self._noisy(seen.throughput))
        if self._work_sigma:
            error = np.array([self._error_of(job) for job in seen.ids.tolist()])
            seen = replace(seen, remaining=seen.remaining * error, steps_left=seen.steps_left * error)
        return self._policy.decide(seen)

    def _noisy(self, values: Floats) -> Floats:
        return values * self._random.lognormal(0.0, self._rate_sigma, values.shape)

    def _error_of(self, job: int) -> float:
        if job not in self._work_error:
            self._work_error[job] = float(self._random.lognormal(0.0, self._work_sigma))
        return self._work_error[job]

    def _late(self, seen: ClusterObservation) -> ClusterObservation:
        late = ("rate", "throughput", "remaining", "steps_left")
        now = {name: getattr(seen, name).copy() for name in late}
        # NB: the observation's arrays are views of what goes on changing.
        self._past.append(replace(seen, ids=seen.ids.copy(), **now))
        while len(self._past) > 1 and self._past[1].time <= seen.time - self._delay:
            self._past.pop(0)
        then = self._past[0]
        if then.time > seen.time - self._delay:
            return seen
        _, here, there = np.intersect1d(seen.ids, then.ids, assume_unique=True, return_indices=True)
        mixed = {name: now[name].copy() for name in late}
        for name in late:
            mixed[name][here] = getattr(then, name)[there]
        return replace(seen, **mixed)
