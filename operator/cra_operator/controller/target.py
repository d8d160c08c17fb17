"""What the controller wants of one job, and why: all that an operator's lifecycle ever hears of a policy."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """A size with its reason.

    Attributes:
        gpus: The size to act on; None where the controller leaves the size to others.
        reason: CamelCase word for the cause.
        message: The same for people: what the policy wants, and what keeps it from having it.
        policy: Who decided.
        recommended: The size that would be acted on if the job's mode was Auto, where it is Recommend.
        gpu_type: The type of GPU that new workers had best be on; None if it is all the same.
        gain: Expected relative change of the rate of progress: 0.5 is half as fast again; None if not known.
        weight: The attention that the policy paid to the job, of 1 for all jobs; None if it pays none.
        start: For a job that waits, when enough GPUs are expected to be free.
    """

    gpus: int | None = None
    reason: str = ""
    message: str = ""
    policy: str = ""
    recommended: int | None = None
    gpu_type: str | None = None
    gain: float | None = None
    weight: float | None = None
    start: datetime | None = None
