"""What policies propose: each is asked about its jobs and its part of the GPUs, and its answer is checked.

Higher priority decides first; those below are left at least their minimum. Jobs of equal priority with
different policies get parts of the GPUs by how many they could use; what one policy leaves goes on to the
next. Every job that was let in has its minimum, whatever a policy says.

A policy that raises, takes too long or answers what cannot be done is replaced by a rule that needs no
training, for this one decision; if that fails too, every job keeps what it has.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from cra_operator.controller.facts import Facts
from cra_operator.controller.policy import ClusterObservation, Decision, Ints

FALLBACK = "goodput"
"""The rule that decides where another policy could not."""

Consult = Callable[[str, int, ClusterObservation], Decision]
"""Asks the policy of this name for this priority; whatever it raises is a failure of the policy."""


class PolicyError(Exception):
    """A policy's answer cannot be used; the message says why."""


@dataclass(frozen=True, kw_only=True)
class Proposed:
    """What policies propose.

    Attributes:
        gpus: By row of the cluster observation.
        weight: The attention that a policy paid to a row, where it pays any.
        by: The policy that decided a row, where it was not its own.
        troubles: By policy, why it could not decide.
    """

    gpus: dict[int, int] = field(default_factory=dict)
    weight: dict[int, float] = field(default_factory=dict)
    by: dict[int, str] = field(default_factory=dict)
    troubles: dict[str, str] = field(default_factory=dict)


def propose(
    seen: ClusterObservation,
    facts: Sequence[Facts],
    rows: Sequence[int],
    *,
    capacity: int,
    ceilings: Mapping[int, int],
    consult: Consult,
) -> Proposed:
    """Ask all policies.

    Args:
        seen: All jobs.
        facts: The same jobs.
        rows: Those to decide about.
        capacity: GPUs for them together.
        ceilings: Most GPUs of each.
        consult: Asks a policy.
    """
    found = Proposed()
    tiers = sorted({facts[j].priority for j in rows}, reverse=True)
    floor = {
        priority: sum(facts[j].lowest for j in rows if facts[j].priority == priority) for priority in tiers
    }
    below = sum(floor.values())
    for priority in tiers:
        below -= floor[priority]
        tier = [j for j in rows if facts[j].priority == priority]
        capacity -= _propose_tier(seen, facts, tier, capacity - below, ceilings, consult, found)
    return found


def _propose_tier(
    seen: ClusterObservation,
    facts: Sequence[Facts],
    rows: Sequence[int],
    capacity: int,
    ceilings: Mapping[int, int],
    consult: Consult,
    found: Proposed,
) -> int:
    """Jobs of one priority; returns the GPUs that are given to them."""
    groups: dict[str, list[int]] = {}
    for j in rows:
        groups.setdefault(facts[j].policy, []).append(j)
    given = 0
    names = sorted(groups)
    for number, name in enumerate(names):
        group, behind = groups[name], [j for later in names[number + 1 :] for j in groups[later]]
        could = sum(ceilings[j] for j in group)
        rest = capacity - given
        part = rest * could // max(1, could + sum(ceilings[j] for j in behind))
        needed = sum(facts[j].lowest for j in group)
        part = max(needed, min(part, rest - sum(facts[j].lowest for j in behind)))
        gpus = _ask(seen, facts, group, part, consult, found)
        gpus = {j: min(max(gpus[j], facts[j].lowest), ceilings[j]) for j in group}
        found.gpus.update(trim(gpus, facts, seen, part))
        given += sum(found.gpus[j] for j in group)
    return given


def _ask(
    seen: ClusterObservation,
    facts: Sequence[Facts],
    rows: Sequence[int],
    capacity: int,
    consult: Consult,
    found: Proposed,
) -> dict[int, int]:
    """One policy about one group, or the fallback in its stead."""
    part = select(seen, rows, capacity)
    first = facts[rows[0]]
    for name in dict.fromkeys((first.policy, FALLBACK)):
        try:
            decision = consult(name, first.priority, part)
            check(decision, part)
        except Exception as error:  # whatever a policy raises, the others and the loop go on
            found.troubles[name] = str(error) or type(error).__name__
            continue
        if name != first.policy:
            found.by.update(dict.fromkeys(rows, name))
        if decision.weight is not None:
            found.weight.update(zip(rows, decision.weight.tolist(), strict=True))
        return dict(zip(rows, seen.sizes.gpus[decision.choice].tolist(), strict=True))
    found.by.update(dict.fromkeys(rows, "static"))
    return {j: 0 if facts[j].waits else facts[j].gpus for j in rows}


def select(seen: ClusterObservation, rows: Sequence[int], capacity: int) -> ClusterObservation:
    """The observation of some jobs with so many GPUs, which of several types are taken evenly."""
    at = np.asarray(rows, dtype=np.int64)
    total = int(seen.capacity.sum())
    by_type = seen.capacity * max(0, min(capacity, total)) // max(1, total)
    per_job = (
        "ids", "rate", "throughput", "remaining", "steps_left", "age", "attained", "restarts",
        "restart_seconds", "pause_left", "current", "limit", "request", "priority",
    )  # fmt: skip
    reward = seen.reward[at] if seen.reward is not None else None
    return replace(
        seen, capacity=by_type, reward=reward, **{name: getattr(seen, name)[at] for name in per_job}
    )


def check(decision: Decision, seen: ClusterObservation) -> None:
    """Whether an answer can be acted on.

    Raises:
        PolicyError: It names sizes that are not on offer, or more GPUs than there are.
    """
    choice: Ints = decision.choice
    if choice.shape != (len(seen),):
        raise PolicyError(f"it decided about {choice.shape} jobs instead of {len(seen)}")
    if not np.issubdtype(choice.dtype, np.integer) or ((choice < 0) | (choice >= len(seen.sizes))).any():
        raise PolicyError("it named a size that does not exist")
    rate = seen.rate[np.arange(len(seen)), choice]
    if ((choice > 0) & (rate <= 0) & (choice != seen.current)).any():
        raise PolicyError("it named a size on which a job cannot run")
    used = np.bincount(seen.sizes.kind[choice], seen.sizes.gpus[choice], len(seen.capacity))
    if (used > seen.capacity).any():
        raise PolicyError(f"it gave away {used.sum():.0f} of {seen.capacity.sum()} GPUs")
    if decision.weight is not None and not np.isfinite(decision.weight).all():
        raise PolicyError("its weights are not numbers")


def trim(
    gpus: Mapping[int, int], facts: Sequence[Facts], seen: ClusterObservation, most: int
) -> dict[int, int]:
    """Take workers off jobs until all fit, never below a minimum: from whoever loses least by it.

    Args:
        gpus: GPUs by row.
        facts: All jobs.
        seen: The same.
        most: GPUs for these rows together.
    """
    left, over = dict(gpus), sum(gpus.values()) - most
    if over <= 0:
        return left
    rate = {j: dict(zip(seen.sizes.gpus.tolist(), seen.rate[j].tolist(), strict=True)) for j in gpus}

    def loss(j: int) -> tuple[int, float, int]:
        now, then = rate[j].get(left[j], 0.0), rate[j].get(left[j] - facts[j].each, 0.0)
        return facts[j].priority, (1 - then / now if now > 0 else 1.0) / facts[j].each, -j

    while over > 0:
        able = [j for j in left if left[j] - facts[j].each >= facts[j].lowest]
        if not able:
            break
        j = min(able, key=loss)
        left[j] -= facts[j].each
        over -= facts[j].each
    return left
