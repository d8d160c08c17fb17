"""How good the present size of a job is, as one number.

    R = U * (alpha * v / v1 + beta * (v / G) / (v1 / G1))

with v the job's rate of progress on its G GPUs, v1 that on one worker of G1 GPUs, alpha and beta of
`spec.objective`, and U the mean utilization of its GPUs. On one busy worker R is alpha + beta. Twice the
GPUs at twice the speed add alpha, at the same speed take half of beta. Progress is counted in optimizer steps
of the job's own batch (`speed.goodput`), so a larger batch counts only for what it is worth.
"""

from __future__ import annotations

from collections.abc import Sequence

from cra_operator.api import ObjectiveSpec, Speed, WorkerStatus
from cra_operator.controller.observation import Observation
from cra_operator.controller.speed import goodput


def reward(
    seen: Observation,
    *,
    objective: ObjectiveSpec,
    speeds: Sequence[Speed],
    workers: Sequence[WorkerStatus],
    worker_gpus: int,
    base_batch: int,
) -> float | None:
    """The reward of the size at which the job was seen.

    Without utilization U is 1. Until the job ran on one worker, v1 is that of the smallest size measured,
    taken to scale perfectly; of several types of GPU, that of the present one where it was measured.

    Args:
        seen: The look.
        objective: alpha and beta.
        speeds: Measured speeds, the present one among them.
        workers: Those that were looked at.
        worker_gpus: GPUs of one worker, G1.
        base_batch: Samples of the job's own batch.

    Returns:
        R; None where the look tells no speed.
    """
    gpus = sum(worker.gpus or 0 for worker in workers)
    if seen.pace is None or not gpus or not speeds:
        return None
    noise = seen.noise_scale or 0.0
    rate = _progress(seen.pace.step_seconds, seen.batch_size or base_batch, base_batch, noise)
    types = {worker.gpu_type for worker in workers}
    alike = [speed for speed in speeds if {speed.gpu_type} == types] or speeds
    least = min(speed.gpus for speed in alike)
    reference = max(
        _progress(speed.step_seconds, speed.batch_size, base_batch, noise) * worker_gpus / least
        for speed in alike
        if speed.gpus == least
    )
    faster = rate / reference
    thrift = faster * worker_gpus / gpus
    busy = 1.0 if seen.utilization is None else seen.utilization
    return round(busy * (objective.alpha * faster + objective.beta * thrift), 4)


def _progress(step_seconds: float, batch: int, base_batch: int, noise: float) -> float:
    """Steps of the own batch per second."""
    return float(goodput(1 / step_seconds, batch, base_batch, noise))
