"""Another size: the decision is written down, and where a run cannot change while it trains, all its pods
leave with a checkpoint from which the next run starts at the new size.
"""

from __future__ import annotations

from cra_operator.api import MAX_DECISIONS, Decision
from cra_operator.controller.target import Target
from cra_operator.lifecycle import gang, waiting
from cra_operator.lifecycle.draft import Draft
from cra_operator.lifecycle.measured import note_strength
from cra_operator.lifecycle.words import clip
from cra_operator.sizing import Size
from cra_operator.world import World


def note_decision(
    draft: Draft, before: int, after: int, reason: str, message: str, target: Target | None = None
) -> None:
    """Write down a decision: a change that is about to be carried out or taken back, or only recommended.

    Args:
        draft: The status.
        before: GPUs until now.
        after: GPUs from now on.
        reason: CamelCase word for the cause.
        message: The same for people.
        target: The controller's word, if the decision is its.
    """
    decision = Decision.model_validate(
        {
            "from": before,
            "to": after,
            "reason": reason,
            "message": clip(message),
            "policy": target and target.policy,
            "gpu_type": target and target.gpu_type,
            "weight": target and target.weight,
            "expected_gain": target and target.gain,
            "applied": target is None or target.gpus is not None,
            "time": draft.now,
        }
    )
    decisions = [*draft.get("decisions"), decision][-MAX_DECISIONS:]
    draft.set(last_decision=decision, decisions=decisions)


def announce(world: World, draft: Draft, after: Size, how: str) -> str:
    """Write down a change of size that is about to be carried out: who wants it, and how it is done.

    Returns:
        The same for people.
    """
    target = world.decided
    if target is None:
        note_decision(draft, world.size.gpus, after.gpus, "SpecChanged", how)
    else:
        note_decision(draft, world.size.gpus, after.gpus, target.reason, target.message, target)
        how = f"{how}: {target.message}"
    draft.set(desired_gpus=after.gpus)
    return how


def note_resized(draft: Draft, change: str, how: str) -> None:
    """Write down a change of size that was carried out.

    Args:
        draft: The status.
        change: From what to what.
        how: How it was done.
    """
    decision: Decision | None = draft.get("last_decision")
    decided = decision is not None and decision.policy is not None
    text = f"{change} {how}: {decision.message}" if decision is not None and decided else f"{change} {how}"
    draft.condition("Rescaling", False, "Rescaled", text)
    draft.tell("Rescaled", text)


def begin_by_checkpoint(world: World, draft: Draft) -> None:
    """All pods leave with a checkpoint; the next run starts from it at the new size."""
    size = world.wanted
    message = f"from {world.size} to {size} by way of a checkpoint and a restart ({_why_not_live(world)})"
    draft.holding = size
    message = announce(world, draft, size, message)
    draft.set(phase="Rescaling", message=message)
    waiting.explain_admission(world, draft, True, "Admitted", f"{size} set aside")
    draft.condition("Rescaling", True, "Rescaling", message)
    draft.condition("Running", False, "Rescaling")
    draft.tell("Rescaling", message)
    gang.send_away(world, draft)


def _why_not_live(world: World) -> str:
    if not world.elastic:
        return "the script is not elastic"
    if world.reshapes:
        return "gpusPerWorker changes"
    return "not all workers take part yet"


def finish_by_checkpoint(world: World, draft: Draft) -> None:
    """Start the next run once all pods have left."""
    if world.live:
        draft.holding = world.aim
        gang.send_away(world, draft)
        return
    waiting.start_run(world, draft, world.aim)


def note_advice(world: World, draft: Draft) -> None:
    """Say which policy looks after the job and, where it only recommends, what."""
    target = world.target
    if target is None or not target.policy:
        return
    draft.set(policy=target.policy, recommended_gpus=target.recommended)
    size, told = world.size.gpus, world.job.status.recommended_gpus
    if draft.get("phase") == "Running" and target.recommended not in (None, told, size):
        note_decision(draft, size, target.recommended, target.reason, target.message, target)
        draft.tell("Recommended", f"{size} → {target.recommended} GPUs: {target.message}")


def note_wish(world: World, draft: Draft) -> None:
    """Say that another size is wanted but does not fit, or that the wish is gone."""
    retry = world.job.status.retry_after
    if world.waits and retry is not None:
        note_strength(draft, world.size, f"next try at {retry:%H:%M:%S} UTC")
        draft.look_again(retry)
        return
    draft.set(desired_gpus=world.wanted.gpus)
    if world.verdict is not None and world.replaceable is None:
        message = f"keeps {world.size}: {world.verdict.message}"
        draft.condition("Rescaling", False, "WaitingForGPUs", message)
        if draft.get("phase") == "Running":
            note_strength(draft, world.size, world.verdict.message)
        if world.decided is None and not draft.was("Rescaling", "WaitingForGPUs"):
            draft.tell("RescaleWaiting", message, warning=True)
    elif world.target is not None and world.target.message and draft.get("phase") == "Running":
        draft.condition("Rescaling", False, world.target.reason, world.target.message)
        draft.set(retry_after=None)
    elif any(draft.was("Rescaling", reason) for reason in ("WaitingForGPUs", "RolledBack")):
        draft.condition("Rescaling", False, "NotWanted")
        draft.set(retry_after=None)
