"""What keeps pods from starting, as one line a user can act on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from cra_operator.view import PodView

_IMAGE_REASONS = frozenset(
    {"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError"}
)
_CONFIG_REASONS = frozenset({"CreateContainerConfigError", "CreateContainerError", "RunContainerError"})
_PATIENCE = timedelta(seconds=5)
"""The scheduler says Unschedulable also of pods whose volume is about to be made."""


@dataclass(frozen=True, kw_only=True)
class Obstacle:
    """The first thing that keeps a generation from starting.

    Attributes:
        reason: CamelCase word: the kubelet's or `Unschedulable`.
        message: Who and why.
        rank: The pod's rank.
        pod: Its name.
        since: From when on it counts as an obstacle.
        fatal: Whether waiting or trying again cannot help, since the job's own text is wrong.
    """

    reason: str
    message: str
    rank: int
    pod: str
    since: datetime
    fatal: bool = False


def obstacle(pods: Sequence[PodView], now: datetime) -> Obstacle | None:
    """The worst obstacle of these pods: what the job got wrong before what the cluster lacks."""
    found = [o for pod in pods if not pod.ended and (o := _of(pod, now)) is not None]
    return min(found, key=lambda o: (not o.fatal, o.since, o.rank), default=None)


def _of(pod: PodView, now: datetime) -> Obstacle | None:
    if pod.waiting is not None:
        reason = _steady(pod.waiting.reason)
        return Obstacle(
            reason=reason,
            message=f"rank {pod.rank} (pod {pod.name}): {reason}: {pod.waiting.message}".rstrip(": "),
            rank=pod.rank,
            pod=pod.name,
            since=now,
            fatal=reason in _IMAGE_REASONS or reason in _CONFIG_REASONS,
        )
    if pod.unschedulable and not pod.node:
        return Obstacle(
            reason="Unschedulable",
            message=f"rank {pod.rank} (pod {pod.name}): no node takes it: {pod.unschedulable}",
            rank=pod.rank,
            pod=pod.name,
            since=pod.created + _PATIENCE,
        )
    return None


def _steady(reason: str) -> str:
    """One name for one trouble: the kubelet flips between the two while it tries again."""
    return "ErrImagePull" if reason == "ImagePullBackOff" else reason
