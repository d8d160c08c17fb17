"""The speeds that a job was measured at, as its status keeps them: a few numbers that outlive the operator.

Each entry is a mean over the time that the job spent at one size, on one type of GPU, with about one batch.
It moves by a fifth of the way, in the logarithm, to each new value, so that it follows what changes and
smooths what wobbles; a single value moves it by no more than a tenth, however far off it is.

What one GPU of a type is worth to the job is kept beside them, in the same way. Every rank tells what it
computes, so a job that runs on several types at once teaches about each.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from statistics import median_high

from cra_operator.api import MAX_GPU_TYPES, MAX_SPEEDS, Speed, TypeSpeed, WorkerStatus
from cra_operator.controller.observation import Observation

_WEIGHT = 0.2
_MOST = math.log(1.1)
_SAME_BATCH = math.log(1.1)
"""Batches that are closer together count as one."""

_Place = tuple[int, int, str]


def learn(
    speeds: Sequence[Speed], seen: Observation, workers: Sequence[WorkerStatus], batch: int
) -> list[Speed]:
    """The speeds after one more look.

    The same look changes them once, however often it is taken in.

    Args:
        speeds: Those known before.
        seen: The look.
        workers: Those that train now; if they are not those that were looked at, nothing is learnt.
        batch: Samples of the global batch if the look does not tell.

    Returns:
        At most `MAX_SPEEDS`, by size. Where there are too many, the oldest of the size that has most goes.
    """
    pods = {worker.pod for worker in workers}
    nodes = {worker.node for worker in workers}
    if seen.pace is None or not pods or seen.pace.pods != pods or None in nodes:
        return list(speeds)
    types = {worker.gpu_type for worker in workers}
    new = Speed(
        gpus=sum(worker.gpus or 0 for worker in workers),
        nodes=len(nodes),
        gpu_type=types.pop() if len(types) == 1 else None,
        batch_size=seen.batch_size or batch,
        step_seconds=_rounded(seen.pace.step_seconds),
        compute_seconds=None if seen.pace.compute_seconds is None else _rounded(seen.pace.compute_seconds),
        time=seen.time,
    )
    old = next((speed for speed in speeds if _same(speed, new)), None)
    if old is not None and old.time is not None and new.time is not None and old.time >= new.time:
        return list(speeds)
    rest = [speed for speed in speeds if speed is not old]
    known = [*rest, new if old is None else _blend(old, new)]
    if len(known) > MAX_SPEEDS:
        known.remove(_least_missed(known))
    return sorted(known, key=lambda speed: (*_place(speed), speed.batch_size))


def learn_types(
    known: Sequence[TypeSpeed], seen: Observation, workers: Sequence[WorkerStatus]
) -> list[TypeSpeed]:
    """What one GPU of each type is worth after one more look, as of `learn`.

    Of several workers on a type the middle one counts, so that one that is slow for reasons of its own does
    not speak for the type.

    Args:
        known: What was known before.
        seen: The look.
        workers: Those that train now; if they are not those that were looked at, nothing is learnt.

    Returns:
        At most `MAX_GPU_TYPES`, by name; those that were not seen for longest go first.
    """
    if seen.pace is None or seen.pace.pods != {worker.pod for worker in workers}:
        return list(known)
    found: dict[str, list[float]] = {}
    for worker in workers:
        sample = seen.workers.get(worker.pod or "")
        if worker.gpu_type and worker.gpus and sample is not None and sample.capability:
            found.setdefault(worker.gpu_type, []).append(sample.capability / worker.gpus)
    after = {one.gpu_type: one for one in known}
    for kind, values in found.items():
        old, value = after.get(kind), median_high(values)
        if old is not None:
            value = old.samples_per_second * math.exp(_towards(math.log(value / old.samples_per_second)))
        new = TypeSpeed(gpu_type=kind, samples_per_second=_rounded(value), time=seen.time)
        if old is None or old.time is None or new.time is None or old.time < new.time:
            after[kind] = new
    newest = sorted(after.values(), key=lambda one: -one.time.timestamp() if one.time else 0.0)
    return sorted(newest[:MAX_GPU_TYPES], key=lambda one: one.gpu_type)


def _same(a: Speed, b: Speed) -> bool:
    return _place(a) == _place(b) and abs(math.log(a.batch_size / b.batch_size)) < _SAME_BATCH


def _place(speed: Speed) -> _Place:
    return speed.gpus, speed.nodes, speed.gpu_type or ""


def _blend(old: Speed, new: Speed) -> Speed:
    """The mean moved towards a new value; the part that is computing moves with it."""
    part = _part(old) if new.compute_seconds is None else _part(new)
    before = _part(old)
    if part is not None and before is not None:
        part = before + _WEIGHT * (part - before)
    step = old.step_seconds * math.exp(_towards(math.log(new.step_seconds / old.step_seconds)))
    return new.model_copy(
        update={
            "step_seconds": _rounded(step),
            "compute_seconds": None if part is None else _rounded(part * step),
        }
    )


def _towards(distance: float) -> float:
    return max(-_MOST, min(_MOST, _WEIGHT * distance))


def _part(speed: Speed) -> float | None:
    """Part of a step that is computing."""
    return None if speed.compute_seconds is None else speed.compute_seconds / speed.step_seconds


def _least_missed(speeds: Sequence[Speed]) -> Speed:
    crowds = Counter(_place(speed) for speed in speeds)
    return min(
        speeds, key=lambda speed: (-crowds[_place(speed)], speed.time.timestamp() if speed.time else 0.0)
    )


def _rounded(seconds: float) -> float:
    """Four significant digits: more is noise, and longer in every status."""
    return float(f"{seconds:.4g}")
