"""Why a run of pods broke, and whether trying again is worth it.

When one rank dies its peers die after it, and what the API server shows first may be any of them. So all ends
are gathered, the ones that only echo another's death (exit 75: the collective broke) are put aside, and the
earliest of the rest is the cause. What the cluster did (eviction, preemption, a lost node, a deleted pod)
beats a script's error of about the same time, since a script without our session reports a lost peer as an
error of its own.

Causes fall into two kinds. *Counted* ones are the job's own doing and are tried again `backoffLimit` times.
The others are the cluster's doing: they are tried again for as long as it takes, ever more slowly.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from cra_operator.lifecycle.report import TrainerError, parse
from cra_operator.view import Exit, PodView

EXIT_LEFT = 143
EXIT_PEER_LOST = 75
EXIT_KILLED = 137

SETTLE = timedelta(seconds=20)
"""How long after the first echo the cause may still show up."""
_CLUSTER_LEEWAY = timedelta(seconds=10)
_EVICTIONS = {
    "PreemptionByScheduler": "Preempted",
    "DeletionByTaintManager": "NodeLost",
    "DeletionByPodGC": "NodeLost",
    "EvictionByEvictionAPI": "Evicted",
    "TerminationByKubelet": "Evicted",
}
_POD_REASONS = {"Evicted": "Evicted", "NodeLost": "NodeLost", "Preempting": "Preempted"}
_LOG_TAIL = 300


@dataclass(frozen=True, kw_only=True)
class Failure:
    """The first real cause of a run's end, or of the loss of a worker.

    Attributes:
        reason: One CamelCase word, used in conditions, events and metrics.
        message: One line for people: who, what, where.
        rank: Rank of the pod that failed first.
        pod: Its name.
        where: Place in the script, if the trainer told.
        error: The bare error text.
        counted: Whether it counts against `backoffLimit`.
        fatal: Whether trying again is pointless.
    """

    reason: str
    message: str
    rank: int | None = None
    pod: str | None = None
    where: str | None = None
    error: str | None = None
    counted: bool = True
    fatal: bool = False


@dataclass(frozen=True, kw_only=True)
class _Candidate:
    failure: Failure
    time: datetime
    by_cluster: bool


@dataclass(frozen=True, kw_only=True)
class Breakage:
    """What is known of a broken run: its cause, or until when to wait for one."""

    failure: Failure | None = None
    unclear_until: datetime | None = None


def examine(pods: Sequence[PodView], *, missing: Sequence[int], now: datetime) -> Breakage | None:
    """Look for the cause why these pods can no longer train together.

    Args:
        pods: The workers; none was deleted by the operator.
        missing: Ranks that were there and are gone.
        now: The current time.

    Returns:
        None if nothing is broken.
    """
    candidates = [c for pod in pods if (c := _candidate(pod, now)) is not None]
    if candidates:
        first = min(candidates, key=lambda c: c.time - (_CLUSTER_LEEWAY if c.by_cluster else timedelta()))
        return Breakage(failure=first.failure)
    if missing:
        ranks = ", ".join(map(str, missing))
        message = f"the pod of rank {ranks} was deleted by someone else"
        return Breakage(failure=Failure(reason="PodDeleted", message=message, rank=missing[0], counted=False))
    echoes = [pod for pod in pods if _is_echo(pod)]
    if not echoes:
        return None
    seen = min(_ended(pod, now) for pod in echoes)
    if now < seen + SETTLE and not all(pod.ended for pod in pods):
        return Breakage(unclear_until=seen + SETTLE)
    first_echo = min(echoes, key=lambda pod: (_ended(pod, now), pod.rank))
    message = f"rank {first_echo.rank} (pod {first_echo.name}) lost a peer and no pod says why"
    return Breakage(
        failure=Failure(reason="PeerLost", message=message, rank=first_echo.rank, pod=first_echo.name)
    )


def is_broken(pod: PodView, now: datetime) -> bool:
    """Whether this pod cannot train any more, of itself or by what was done to it."""
    return _is_echo(pod) or _candidate(pod, now) is not None


def _is_echo(pod: PodView) -> bool:
    return pod.phase == "Failed" and pod.exit is not None and pod.exit.code == EXIT_PEER_LOST


def _ended(pod: PodView, now: datetime) -> datetime:
    return (pod.exit and pod.exit.finished) or now


def _candidate(pod: PodView, now: datetime) -> _Candidate | None:
    """This pod's own reason to have failed; None if it did not, or only followed another."""
    by_cluster = _cluster_reason(pod)
    if by_cluster is not None:
        reason, text = by_cluster
        failure = Failure(
            reason=reason,
            message=f"rank {pod.rank} (pod {pod.name}{f' on {pod.node}' if pod.node else ''}) {text}",
            rank=pod.rank,
            pod=pod.name,
            counted=False,
        )
        return _Candidate(failure=failure, time=pod.deleted or _ended(pod, now), by_cluster=True)
    if pod.phase != "Failed" or _is_echo(pod):
        return None
    return _Candidate(failure=_own_failure(pod), time=_ended(pod, now), by_cluster=False)


def _cluster_reason(pod: PodView) -> tuple[str, str] | None:
    """What the cluster did to the pod, as (reason, what happened)."""
    if pod.phase == "Succeeded":
        return None
    reason = _EVICTIONS.get(pod.disruption) or _POD_REASONS.get(pod.reason)
    if reason is not None:
        return reason, f"was taken away: {pod.message or pod.disruption or pod.reason}"
    if pod.phase == "Failed" and pod.exit is None:
        return "NodeRefused", f"was refused by its node: {pod.message or pod.reason or 'no reason given'}"
    if pod.deleting:
        return "PodDeleted", "was deleted by someone else"
    if pod.phase == "Failed" and pod.exit is not None and pod.exit.code == EXIT_LEFT:
        return "PodTerminated", "was told to leave by someone else"
    return None


def _own_failure(pod: PodView) -> Failure:
    """What the pod did itself."""
    end = pod.exit
    assert end is not None, "a pod that failed without an exit was refused by its node"
    report = parse(end.message)
    error = report.error if report is not None else None
    reason, what, where = _classify(end, error)
    rank = pod.rank
    container = "" if end.container == "trainer" else f", container {end.container}"
    place = f" at {where}" if where else ""
    return Failure(
        reason=reason,
        message=f"rank {rank} (pod {pod.name}{container}): {what}{place}",
        rank=error.rank if error is not None and error.rank is not None else rank,
        pod=pod.name,
        where=where or None,
        error=what,
    )


def _classify(end: Exit, error: TrainerError | None) -> tuple[str, str, str]:
    """(reason, text, where) of a container's end."""
    if end.reason == "OOMKilled":
        return "OOMKilled", "out of memory: killed at its memory limit", ""
    if error is not None and (error.type or error.message):
        return "ScriptError", ": ".join(filter(None, (error.type, error.message))), error.where
    if end.code == EXIT_KILLED:
        return "Killed", "killed from outside (SIGKILL)", ""
    text = f"exit code {end.code}"
    if end.reason and end.reason not in ("Error", "Completed"):
        text += f" ({end.reason})"
    last_words = _last_line(end.message)
    return "ScriptError", f"{text}: {last_words}" if last_words else text, ""


def _last_line(log: str) -> str:
    """The last line that says something: of a Python traceback, the exception."""
    lines = [line.strip() for line in re.split(r"[\r\n]+", log) if line.strip()]
    return lines[-1][-_LOG_TAIL:] if lines else ""
