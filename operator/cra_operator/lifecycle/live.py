"""A run that changes while it trains: workers are lost and replaced, join and leave, and nobody starts anew.

Only an elastic script can do so. What the trainers make of it is their affair: the operator creates pods and
deletes pods, never more than one set of newcomers at a time, and never while others still leave, so no rank
ever has two pods that both train. Without its leader, rank 0, the run is lost and the next one starts from
the newest checkpoint.

Who trains is what the status lists as workers (see `World.current`). Every step writes that list first and
deletes afterwards, or creates first and writes then. So what a crash at any point leaves is either pods that
nobody lists, which are sent away, or a generation that the status does not know, which is taken for the
newcomers that it was meant to be.
"""

from __future__ import annotations

from cra_operator.lifecycle import gang, joining, losses, replacing, resizing
from cra_operator.lifecycle.draft import Draft
from cra_operator.lifecycle.measured import note_strength, note_training
from cra_operator.lifecycle.words import count
from cra_operator.view import LOST_NODE_GRACE
from cra_operator.world import World

_LIVE = ("Growing", "Shrinking", "Replacing")
"""Reasons of the condition Rescaling while a run changes without a restart."""


def tend(world: World, draft: Draft) -> None:
    """Do the first of these that applies: mourn, take in, send off, replace, invite, train."""
    draft.set_run(gpus=world.size.gpus, joining=world.joining)
    note_training(world, draft)
    if world.leader is not None and world.leader.phase == "Succeeded":
        gang.delete(draft, world.leaving)
    elif not losses.tend(world, draft):
        gang.delete(draft, world.leaving)
        _change_size(world, draft)
    if draft.get("phase") == "Running":
        draft.holding = joining.expected(world, draft)


def _change_size(world: World, draft: Draft) -> None:
    verdict = world.verdict
    if world.reshapes and verdict is not None and verdict.fits:
        resizing.begin_by_checkpoint(world, draft)
    elif world.joining is not None and not joining.superseded(world):
        joining.tend(world, draft)
    elif world.wanted.workers < world.size.workers and not world.reshapes:
        joining.dismiss(world, draft)
        _shrink(world, draft)
    elif world.joining is not None:
        joining.dismiss(world, draft)
        draft.condition("Rescaling", False, "Superseded", f"{world.wanted} are wanted now")
    elif world.leaving:
        _wait_for_leavers(world, draft)
    elif draft.was("Rescaling", "Shrinking") and world.job.status.is_true("Rescaling"):
        _finish_shrinking(world, draft)
    elif world.replaceable is not None and verdict is not None and verdict.fits:
        replacing.send_away(world, draft, world.replaceable)
    elif verdict is not None and verdict.fits:
        joining.begin(world, draft)
    elif verdict is not None and world.avoided:
        replacing.take_any_node(draft)
    else:
        resizing.note_wish(world, draft)


def _wait_for_leavers(world: World, draft: Draft) -> None:
    note_strength(draft, world.size, f"{count(len(world.leaving), 'pod')} still to end")
    for pod in world.leaving:
        if pod.deadline is not None:
            draft.look_again(max(world.now + LOST_NODE_GRACE, pod.deadline + LOST_NODE_GRACE))


def _shrink(world: World, draft: Draft) -> None:
    """Send the highest ranks away: they leave after a step, and the others go on."""
    size = world.wanted
    message = resizing.announce(world, draft, size, f"from {world.size} to {size} while training goes on")
    workers = [worker for worker in draft.get("workers") if worker.rank < size.workers]
    draft.set(workers=workers, retry_after=None)
    draft.set_run(gpus=size.gpus)
    draft.condition("Rescaling", True, "Shrinking", message)
    draft.tell("Rescaling", message)
    if len(workers) == size.workers and len(world.job.status.workers) < world.size.workers:
        draft.condition("Degraded", False, "AsExpected")  # the empty places are not wanted any more
    note_strength(draft, size, "shrinking")
    gang.delete(draft, (pod for pod in world.current if pod.rank >= size.workers))
    draft.look_again(draft.now)


def _finish_shrinking(world: World, draft: Draft) -> None:
    """The last of those that were sent away is gone."""
    decision = world.job.status.last_decision
    before = decision.from_ if decision is not None else "?"
    draft.set(rescales=draft.get("rescales") + 1)
    resizing.note_resized(draft, f"{before} → {world.size}", "while training went on")
    draft.look_again(draft.now)


def call_off(world: World, draft: Draft) -> None:
    """A script that is called elastic no more takes nobody in, and nobody is waited for."""
    gang.delete(draft, (pod for pod in (*world.newcomers, *world.strays) if not pod.ended))
    if world.joining is not None:
        draft.set_run(joining=None, missed_gpus=None)
    if any(draft.was("Rescaling", reason) for reason in _LIVE):
        draft.condition("Rescaling", False, "NotWanted", "scaling.elastic is off")
