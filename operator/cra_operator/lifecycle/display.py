"""The printer columns of `kubectl get crj`, as short strings."""

from __future__ import annotations

from cra_operator.api import Display, JobSpec, JobStatus


def columns(spec: JobSpec, status: JobStatus) -> Display:
    """All columns of this status."""
    progress, done = status.progress, status.phase in ("Succeeded", "Failed")
    ratio = progress.ratio if progress is not None else None
    eta = progress.eta_seconds if progress is not None else None
    training = sum(worker.gpus or 0 for worker in status.workers)
    gpus = training if status.phase == "Running" else status.gpus or 0
    return Display(
        phase=phase(status),
        gpus=f"{gpus}/{spec.scaling.min_gpus}-{spec.scaling.max_gpus}",
        progress=None if ratio is None else percent(ratio),
        eta=None if eta is None or done else duration(eta),
        utilization=None if status.utilization is None or done else percent(status.utilization),
        reward=None if status.reward is None else f"{status.reward:.2f}",
    )


def phase(status: JobStatus) -> str | None:
    """The phase and, where something is wrong, what: `Starting/ErrImagePull`, `Failed/ScriptError`."""
    degraded = status.condition("Degraded")
    shown = status.phase in ("Starting", "Restarting", "Failed")
    if shown and degraded is not None and degraded.status == "True":
        return f"{status.phase}/{degraded.reason}"
    return status.phase


def percent(ratio: float) -> str:
    """`0.374` as `37%`; only what is really complete shows as 100 %."""
    return f"{int(min(max(ratio, 0), 1) * 100 + 1e-9)}%"


def duration(seconds: float) -> str:
    """A duration in its one or two largest units, as kubectl prints ages."""
    whole = max(0, round(seconds))
    if whole < 120:
        return f"{whole}s"
    if whole < 10 * 60:
        return f"{whole // 60}m{whole % 60}s" if whole % 60 else f"{whole // 60}m"
    if whole < 3 * 3600:
        return f"{whole // 60}m"
    if whole < 48 * 3600:
        hours, minutes = divmod(whole // 60, 60)
        return f"{hours}h{minutes}m" if hours < 10 and minutes else f"{hours}h"
    return f"{whole // 86400}d"
