"""Another size: the decision is written down, and where a run cannot change while it trains, all its pods
leave with a checkpoint from which the next run starts at the new size.
"""

from __future__ import annotations

from cra_operator.api import MAX_DECISIONS, Decision
from cra_operator.lifecycle import gang, waiting
from cra_operator.lifecycle.draft import Draft
from cra_operator.lifecycle.measured import note_strength
from cra_operator.sizing import Size
from cra_operator.world import World


def note_decision(draft: Draft, before: Size, after: Size, reason: str, message: str) -> None:
    """Write down a change of size that is about to be carried out or taken back."""
    decision = Decision.model_validate(
        {"from": before.gpus, "to": after.gpus, "reason": reason, "message": message, "time": draft.now}
    )
    decisions = [*draft.get("decisions"), decision][-MAX_DECISIONS:]
    draft.set(desired_gpus=after.gpus, last_decision=decision, decisions=decisions)


def note_resized(draft: Draft, text: str) -> None:
    """Write down a change of size that was carried out without a restart."""
    draft.set(rescales=draft.get("rescales") + 1)
    draft.condition("Rescaling", False, "Rescaled", text)
    draft.tell("Rescaled", text)


def begin_by_checkpoint(world: World, draft: Draft) -> None:
    """All pods leave with a checkpoint; the next run starts from it at the new size."""
    size = world.wanted
    message = f"from {world.size} to {size} by way of a checkpoint and a restart ({_why_not_live(world)})"
    draft.holding = size
    note_decision(draft, world.size, size, "SpecChanged", message)
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


def note_wish(world: World, draft: Draft) -> None:
    """Say that another size is wanted but does not fit, or that the wish is gone."""
    retry = world.job.status.retry_after
    if world.waits and retry is not None:
        note_strength(draft, world.size, f"next try at {retry:%H:%M:%S} UTC")
        draft.look_again(retry)
        return
    draft.set(desired_gpus=world.wanted.gpus)
    if world.verdict is not None:
        message = f"keeps {world.size}: {world.verdict.message}"
        draft.condition("Rescaling", False, "WaitingForGPUs", message)
        if draft.get("phase") == "Running":
            note_strength(draft, world.size, world.verdict.message)
        if not draft.was("Rescaling", "WaitingForGPUs"):
            draft.tell("RescaleWaiting", message, warning=True)
    elif any(draft.was("Rescaling", reason) for reason in ("WaitingForGPUs", "RolledBack")):
        draft.condition("Rescaling", False, "NotWanted")
        draft.set(retry_after=None)
