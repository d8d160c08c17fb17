"""What a reconciliation may ask for: the whole vocabulary between deciding and doing."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from cra_operator.api import JobStatus
from cra_operator.sizing import Size


@dataclass(frozen=True, kw_only=True)
class CreateClaim:
    """Create the checkpoint claim; one that exists must be this job's own, for it holds somebody's data."""

    manifest: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Apply:
    """Bring a Service about by server-side apply."""

    manifest: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class CreatePod:
    """Create a pod; one of that name that exists already is the one that was meant."""

    manifest: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class DeletePod:
    """Delete this very pod (its uid is a precondition), with its grace period."""

    namespace: str
    name: str
    uid: str


@dataclass(frozen=True, kw_only=True)
class DeleteJob:
    """Delete the job itself, its children with it."""


@dataclass(frozen=True, kw_only=True)
class RecordEvent:
    """Tell what just changed."""

    type: Literal["Normal", "Warning"]
    reason: str
    message: str


Action = CreateClaim | Apply | CreatePod | DeletePod | DeleteJob | RecordEvent


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What one look at a job leads to.

    Attributes:
        status: The status to write.
        actions: What to do. Creations come before the status is written, deletions after: a crash in between
            is then seen as it was meant, as pods of a generation that the status does not know yet, or as an
            intention whose pods still live.
        holding: GPUs that are set aside for the job, whether its pods exist yet or not.
        look_again: When the job must be looked at again even if nothing happens.
    """

    status: JobStatus
    actions: tuple[Action, ...] = ()
    holding: Size | None = None
    look_again: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """A child of the plan's generation cannot be made.

    Attributes:
        kind: The child's kind.
        generation: The generation that it was for.
        status: HTTP status: 403 forbidden, 409 the name is taken, 422 invalid.
        message: What the API server said, or who has the name.
        passing: The name is still taken by an earlier job's child that is about to go.
    """

    kind: str
    generation: int
    status: int
    message: str
    passing: bool = False
