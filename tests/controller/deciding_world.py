"""Jobs as the controller's pure parts see them, made by a few words each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np

from cra_operator.controller.deciding import Look, Outcome, decide
from cra_operator.controller.facts import Facts
from cra_operator.controller.policy import ClusterObservation, Decision, Ints, Sizes
from cra_operator.controller.sharing import Accounts, Rules
from cra_operator.controller.target import Target

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def a_job(name: str, gpus: int = 1, **fields: Any) -> Facts:
    """A job that trains on so many GPUs, measured, elastic, of one to eight GPUs, unless told otherwise."""
    base: dict[str, Any] = {
        "key": (fields.pop("namespace", "default"), name),
        "queue": "default",
        "policy": "goodput",
        "priority": 0,
        "decides": True,
        "acts": True,
        "waits": False,
        "ran": True,
        "changes": False,
        "measured": True,
        "known": True,
        "elastic": True,
        "each": 1,
        "lowest": 1,
        "highest": 8,
        "gpus": gpus,
        "fits": 99,
        "cooldown": 60.0,
        "moved": None,
        "turns": 0,
        "taken_back": 0,
        "pause": 1.0,
        "startup": 10.0,
        "unsaved": 0.0,
        "eta": None,
        "age": 100.0,
    }
    return Facts(**(base | fields))


def waiting(name: str, gpus: int = 1, **fields: Any) -> Facts:
    """A job that waits for its first GPUs."""
    return a_job(name, gpus, **{"waits": True, "measured": False, "lowest": gpus, **fields})


def observe(
    jobs: Sequence[Facts], capacity: int, *, remaining: float = 10_000.0, power: float = 1.0
) -> ClusterObservation:
    """The same jobs as a policy sees them: each progresses by gpus ** power a second."""
    most = max([8, capacity, *(job.gpus for job in jobs)])
    gpus = np.arange(most + 1)
    fits = np.array([[job.lowest <= g <= job.highest and g % job.each == 0 for g in gpus] for job in jobs])
    rate = np.where(fits.reshape(len(jobs), len(gpus)), np.maximum(gpus, 1e-9) ** power, 0.0)
    rate[:, 0] = 0.0
    count = len(jobs)
    return ClusterObservation(
        time=0.0,
        capacity=np.array([capacity]),
        node_gpus=np.array([8]),
        sizes=Sizes(gpus=gpus, nodes=(gpus > 0).astype(np.int64), kind=np.zeros(len(gpus), dtype=np.int64)),
        ids=np.arange(count),
        rate=rate,
        throughput=rate,
        remaining=np.full(count, remaining),
        steps_left=np.full(count, remaining),
        age=np.array([job.age for job in jobs]),
        attained=np.zeros(count),
        restarts=np.zeros(count, dtype=np.int64),
        restart_seconds=np.full(count, 1.0),
        pause_left=np.zeros(count),
        current=np.array([0 if job.waits else job.gpus for job in jobs], dtype=np.int64),
        limit=np.full(count, most),
        request=np.zeros(count, dtype=np.int64),
        priority=np.array([float(job.priority) for job in jobs]),
    )


def answers(*gpus: int) -> Callable[[str, int, ClusterObservation], Decision]:
    """A policy that answers these sizes, whatever it sees."""
    return lambda name, priority, seen: Decision(choice=np.array(gpus, dtype=np.int64))


def equal_shares(name: str, priority: int, seen: ClusterObservation) -> Decision:
    """A policy that gives everybody the same, as far as the job can use it."""
    share = int(seen.capacity[0]) // max(1, len(seen))
    usable: Ints = np.where((seen.rate > 0) & (seen.sizes.gpus <= share), np.arange(len(seen.sizes)), 0)
    return Decision(choice=usable.max(axis=1), weight=np.full(len(seen), 1 / len(seen)))


def tick(
    jobs: Sequence[Facts],
    capacity: int,
    policy: Callable[[str, int, ClusterObservation], Decision] = equal_shares,
    *,
    rules: Rules | None = None,
    used: Accounts | None = None,
    **seen: float,
) -> Outcome:
    """One decision about these jobs."""
    look = Look(
        facts=jobs,
        seen=observe(jobs, capacity, **seen),
        rules=rules or Rules(),
        used=used or Accounts(),
        hysteresis=0.05,
        now=NOW,
    )
    return decide(look, policy)


def sizes(outcome: Outcome) -> dict[str, int | None]:
    """The size that is wanted of each job."""
    return {key[1]: target.gpus for key, target in outcome.targets.items()}


def target(outcome: Outcome, name: str) -> Target:
    """The target of one job."""
    return next(target for key, target in outcome.targets.items() if key[1] == name)


def after(jobs: Sequence[Facts], targets: Mapping[tuple[str, str], Target]) -> list[Facts]:
    """The jobs once their targets are reached."""
    moved = []
    for job in jobs:
        gpus = targets[job.key].gpus
        changed = not job.waits and gpus is not None and gpus != job.gpus
        moved.append(replace(job, gpus=gpus, moved=0.0) if changed and gpus is not None else job)
    return moved
