"""How long to wait before a job is started again."""

from __future__ import annotations

from datetime import timedelta

_OWN_BASE = timedelta(seconds=5)
_CLUSTER_BASE = timedelta(seconds=1)
_CAP = timedelta(minutes=5)
HEALTHY_RUN = timedelta(minutes=5)
"""Pods that lived this long show that the cluster had recovered: the next wait starts small again."""


def delay(*, counted: bool, failures: int, restarts: int, ran: timedelta) -> timedelta:
    """The wait after a failure: it doubles each time up to five minutes.

    Args:
        counted: Whether the failure counted against the job.
        failures: Failures counted so far, this one included if it counts.
        restarts: All restarts so far, this one included.
        ran: How long the generation lived.
    """
    if counted:
        return min(_CAP, _OWN_BASE * (1 << min(failures - 1, 16)))
    by_cluster = 1 if ran >= HEALTHY_RUN else restarts - failures
    return min(_CAP, _CLUSTER_BASE * (1 << min(max(by_cluster - 1, 0), 16)))
