"""From the spec's GPU counts to a number of equal pods."""

from __future__ import annotations

from dataclasses import dataclass

from cra_operator.api import ScalingSpec


@dataclass(frozen=True, kw_only=True)
class Size:
    """So many workers (pods) of so many GPUs each."""

    workers: int
    gpus_per_worker: int

    @property
    def gpus(self) -> int:
        """All GPUs together."""
        return self.workers * self.gpus_per_worker

    def __str__(self) -> str:
        noun = "GPU" if self.gpus == 1 else "GPUs"
        if self.gpus_per_worker == 1:
            return f"{self.gpus} {noun}"
        return f"{self.gpus} {noun} ({self.workers} x {self.gpus_per_worker})"


@dataclass(frozen=True, kw_only=True)
class Cohort:
    """Pods that are created together: those that begin a run, or those that join one.

    Attributes:
        run: Generation with which the run began.
        generation: Number of this set of pods.
        size: Size of the run once they take part.
        ranks: Which of its workers they are.
        avoid: Nodes that they keep away from.
    """

    run: int
    generation: int
    size: Size
    ranks: tuple[int, ...]
    avoid: tuple[str, ...] = ()

    @property
    def joins(self) -> bool:
        """Whether they join a run instead of beginning one."""
        return self.generation != self.run


def gpus_per_worker(scaling: ScalingSpec) -> int:
    """GPUs of one pod: the number, or the lower end of a range such as `1-4`."""
    each = scaling.gpus_per_worker
    return each if isinstance(each, int) else int(each.split("-", maxsplit=1)[0])


def least(scaling: ScalingSpec) -> Size:
    """The smallest size on which the job may run: the pinned one, else the minimum in whole workers."""
    each = gpus_per_worker(scaling)
    workers = -(-scaling.min_gpus // each) if scaling.gpus is None else scaling.gpus // each
    return Size(workers=max(1, workers), gpus_per_worker=each)


def wanted(scaling: ScalingSpec, target: int | None = None, before: int | None = None) -> Size:
    """The size that the job should have.

    That is the pinned one; else what the controller decided; else what was wanted before, so that a size
    stays while nobody decides; else the smallest allowed. What lies outside the bounds, which may have
    changed since, is moved to the nearest of them.

    Where `gpusPerWorker` is a range the API cannot check multiples, so sizes are rounded down to whole
    workers and the minimum is rounded up.

    Args:
        scaling: What the spec says.
        target: GPUs that the controller wants, if it decides.
        before: GPUs that were wanted until now, if any.
    """
    smallest = least(scaling)
    gpus = target if target is not None else before
    if scaling.gpus is not None or gpus is None:
        return smallest
    each = smallest.gpus_per_worker
    workers = max(smallest.workers, min(gpus, scaling.max_gpus) // each)
    return Size(workers=workers, gpus_per_worker=each)
