"""Writing a status: only what changed, and what merely moves on not too often."""

from __future__ import annotations

import time
from typing import Any

from cra_operator.api import Job, JobKey, JobStatus

_MEASURED = frozenset(
    {
        "progress", "workers", "gpus", "utilization", "gpu_seconds", "gpu_seconds_time", "display", "message",
        "queue_position", "last_checkpoint", "reward", "pause_seconds", "speeds", "gpu_types",
        "batch_size", "noise_scale", "start_estimate",
    }
)  # fmt: skip
"""Fields that move without anything having happened to the job."""


def merge_patch(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """The JSON merge patch that leads from one object to the other; empty if they are equal."""
    patch: dict[str, Any] = {key: None for key in old if key not in new}
    for key, value in new.items():
        before = old.get(key)
        if before == value and key in old:
            continue
        if isinstance(value, dict) and isinstance(before, dict):
            patch[key] = merge_patch(before, value)
        else:
            patch[key] = value
    return patch


def status_patch(job: Job, new: JobStatus) -> dict[str, Any] | None:
    """The body of the write to `/status`, or None if there is nothing to write.

    The uid makes the API server refuse the write if the job was deleted and made anew meanwhile. GPU-seconds
    alone are no reason to write: they grow all the time and go along with the next change.
    """
    patch = merge_patch(job.status.wire(), new.wire())
    if patch.keys() <= {"gpuSeconds", "gpuSecondsTime"}:
        return None
    return {"metadata": {"uid": job.metadata.uid}, "status": patch}


def is_minor(old: JobStatus, new: JobStatus) -> bool:
    """Whether the two differ only in measurements and wording, which may wait."""
    return _essence(old) == _essence(new)


def _essence(status: JobStatus) -> tuple[Any, ...]:
    conditions = [(c.type, c.status, c.reason, c.observed_generation) for c in status.conditions]
    rest = {name: value for name, value in status if name not in _MEASURED and name != "conditions"}
    pods = [worker.pod for worker in status.workers]
    shown = status.display.phase if status.display is not None else None
    return rest, conditions, pods, shown


class Throttle:
    """Spaces out minor writes per job."""

    def __init__(self, interval: float) -> None:
        self._interval = interval
        self._written: dict[JobKey, float] = {}

    def wait(self, key: JobKey) -> float:
        """Seconds until a minor write is due."""
        last = self._written.get(key)
        return 0.0 if last is None else max(0.0, last + self._interval - time.monotonic())

    def note(self, key: JobKey) -> None:
        """A status was written."""
        self._written[key] = time.monotonic()

    def forget(self, key: JobKey) -> None:
        """The job is gone."""
        self._written.pop(key, None)
