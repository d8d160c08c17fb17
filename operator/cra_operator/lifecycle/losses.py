"""Workers that an elastic run loses while it trains: counted once, written off, and it goes on without them.

With the leader the run is lost. Where a script's own error takes it down, other ranks often die of the same
error and may be seen first, so a loss that counts is only written off when the leader has outlived it for a
while: it would otherwise be counted a second time with the run.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from cra_operator.lifecycle import backoff, ending
from cra_operator.lifecycle.draft import Draft
from cra_operator.lifecycle.failures import Failure, examine, is_broken
from cra_operator.lifecycle.measured import note_strength
from cra_operator.lifecycle.words import count
from cra_operator.view import PodView
from cra_operator.world import World

OUTLIVE = timedelta(seconds=5)
"""How long the leader must outlive a worker that failed of itself."""


def tend(world: World, draft: Draft) -> bool:
    """Look for workers that are gone; whether that is all there is to do now."""
    gone = [pod for pod in world.current if is_broken(pod, world.now)]
    present = {pod.rank for pod in world.current}
    vanished = tuple(w.rank for w in world.job.status.workers if w.rank not in present)
    if world.leader is None and 0 not in vanished:
        vanished = (0, *vanished)
    broken = examine(world.current, missing=vanished, now=world.now)
    if broken is None:
        return False
    if broken.failure is None:
        _look_into(draft, world, "a worker lost a peer: looking for the cause", broken.unclear_until)
    elif world.leader is None or world.leader in gone:
        ending.give_up(world, draft, broken.failure)
    else:
        outlived = max((_end(pod, world.now) for pod in gone), default=world.now) + OUTLIVE
        if broken.failure.counted and world.now < outlived:
            _look_into(draft, world, f"{broken.failure.message}: looking what else follows", outlived)
        else:
            _write_off(world, draft, broken.failure, gone, {*vanished, *(pod.rank for pod in gone)})
    return True


def _end(pod: PodView, now: datetime) -> datetime:
    return (pod.exit and pod.exit.finished) or pod.deleted or now


def _look_into(draft: Draft, world: World, message: str, until: datetime | None) -> None:
    note_strength(draft, world.size, message)
    draft.look_again(until or world.now)


def _write_off(world: World, draft: Draft, failure: Failure, gone: list[PodView], ranks: set[int]) -> None:
    """The run goes on without these; pods in their place are asked for after a wait."""
    failures = ending.counted(world, draft, failure)
    if failures is None:
        return
    run = world.job.status.run
    lived = world.now - min((pod.created for pod in gone), default=world.now)
    setbacks = 1 if lived >= backoff.HEALTHY_RUN else 1 + ((run and run.setbacks) or 0)
    wait = backoff.delay(counted=failure.counted, failures=failures, restarts=failures + setbacks, ran=lived)
    draft.set(workers=[worker for worker in draft.get("workers") if worker.rank not in ranks])
    draft.set(retry_after=world.now + wait)
    draft.set_run(missed_gpus=world.size.gpus, setbacks=setbacks)
    left, whole = len(draft.get("workers")), count(world.size.workers, "worker")
    message = f"training goes on with {left} of {whole}: {failure.message}"
    draft.condition("Degraded", True, failure.reason, message)
    draft.tell(failure.reason, f"{message} ({ending.tally(world, failure, failures)})", warning=True)
    ending.note_error(draft, failure)
    note_strength(draft, world.size, failure.message)
    draft.look_again(world.now + wait)
