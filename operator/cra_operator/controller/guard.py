"""Whether a change of size is worth its trouble, job by job.

A policy says what would be best if changing cost nothing and predictions were true. The guard holds it
against what is known of the job: a change costs a pause and the start of new pods, a job that ends soon gains
nothing, a prediction that differs by a few percent says nothing, and whoever was changed a moment ago is left
alone.

Growing must pay for itself. Shrinking costs the job and serves others, so the guard only says whether the job
may be asked for it now; that somebody needs the GPUs, and for what, is for `moves` to know.
"""

from __future__ import annotations

from dataclasses import dataclass

from cra_operator.controller.facts import GROWTH_PAYS, Facts
from cra_operator.lifecycle.display import duration

_DOUBT = 3.0
"""A job gives GPUs up for its own sake only for so many times the gain that makes it grow."""
_FIRST_WAIT, _LONGEST_WAIT = 30.0, 1800.0
"""Seconds to wait after new pods were taken back; it doubles each time."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Prospect:
    """What a change of size means for a job.

    Attributes:
        gpus: The size that is proposed.
        rate: Progress/s at the present size; 0 if not known.
        rate_then: Progress/s at the proposed one.
        remaining: Progress until the job is done; NaN if it declares no end.
    """

    gpus: int
    rate: float
    rate_then: float
    remaining: float

    @property
    def gain(self) -> float | None:
        """Relative change of the rate of progress; None if not known."""
        return self.rate_then / self.rate - 1 if self.rate > 0 else None


@dataclass(frozen=True, kw_only=True, slots=True)
class Ruling:
    """The guard's word: whether a change may be made, the reason, and the same for people."""

    allowed: bool
    reason: str
    message: str


def may_grow(facts: Facts, prospect: Prospect, hysteresis: float) -> Ruling:
    """Whether growing pays.

    Args:
        facts: The job.
        prospect: What it is to grow to.
        hysteresis: Least relative gain that is a reason.
    """
    patience = _patience(facts)
    if patience is not None:
        return patience
    gain = prospect.gain
    if gain is None or not facts.known:
        return _no("NotMeasured", f"its speed on {_gpus(facts.gpus)} is not measured yet")
    if gain < hysteresis:
        change = f"{abs(gain):.0%} {'slower' if gain < 0 else 'faster'}"
        return _no(
            "GainTooSmall", f"{_gpus(prospect.gpus)} would make it {change}; it takes {hysteresis:.0%}"
        )
    saved = _seconds_saved(facts, prospect)
    if saved is not None:
        left = prospect.remaining / prospect.rate
        if left <= facts.startup + facts.pause:
            return _no("AboutToEnd", f"it ends in {duration(left)}, before new pods would train")
        if saved <= max(facts.pause, hysteresis * left):
            cost = duration(facts.startup + facts.pause)
            return _no(
                "DoesNotPay", f"{_gpus(prospect.gpus)} would not make up for {cost} of change until it ends"
            )
        if left - saved < 2 * facts.startup + facts.pause:
            start = duration(facts.startup)
            return _no(
                "DoesNotPay", f"it would end before new pods had trained for the {start} of their start"
            )
    sooner = f", {duration(saved)} sooner done" if saved is not None else ""
    return Ruling(allowed=True, reason=GROWTH_PAYS, message=f"{gain:.0%} faster{sooner}")


def may_shrink(facts: Facts) -> Ruling | None:
    """Why the job may not be asked to give GPUs to its equals now; None if it may."""
    return _patience(facts)


def shrinks_for_itself(facts: Facts, prospect: Prospect, hysteresis: float) -> bool:
    """Whether the job is the faster for having fewer GPUs, beyond doubt: the measurements may have been made
    while the machines were differently busy.
    """
    surely = prospect.gain is not None and prospect.gain >= _DOUBT * hysteresis
    return surely and facts.known and _patience(facts) is None


def _patience(facts: Facts) -> Ruling | None:
    """Why the job is to be left alone for now, if it is."""
    if facts.changes:
        return _no("Changing", "another change is on its way")
    if not facts.measured:
        return _no("MetricsMissing", "its metrics are missing or not fresh, so its size stays")
    if facts.moved is None:
        return None
    if facts.taken_back:
        wait = max(facts.cooldown, min(_LONGEST_WAIT, _FIRST_WAIT * 2.0 ** (facts.taken_back - 1)))
        if facts.moved < wait:
            return _no("TakenBack", f"its new pods had to be taken back less than {duration(wait)} ago")
    # Whoever goes back and forth is fooled by noise, or by a prediction that was not borne out.
    wait = min(max(facts.cooldown, _LONGEST_WAIT), facts.cooldown * 4.0**facts.turns)
    if facts.moved < wait:
        return _no("CoolingDown", f"its last change was less than {duration(wait)} ago")
    return None


def _seconds_saved(facts: Facts, prospect: Prospect) -> float | None:
    """How much sooner the job ends if it changes now; None if it declares no end.

    An elastic job goes on at its old speed until the new pods are ready; any other stands still.
    """
    if not prospect.remaining >= 0 or prospect.rate <= 0:
        return None
    as_is = prospect.remaining / prospect.rate
    done = facts.startup * prospect.rate if facts.elastic else 0.0
    changed = facts.startup + facts.pause + max(0.0, prospect.remaining - done) / prospect.rate_then
    return as_is - changed


def _gpus(gpus: int) -> str:
    return f"{gpus} GPU" if gpus == 1 else f"{gpus} GPUs"


def _no(reason: str, message: str) -> Ruling:
    return Ruling(allowed=False, reason=reason, message=message)
