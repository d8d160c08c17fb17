"""What a scheduler comes to over several workloads, and whether it differs from another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cra_simulator.comparison import Outcome


@dataclass(frozen=True, kw_only=True, slots=True)
class Summary:
    """One scheduler. Times in seconds.

    Attributes:
        mean: Mean job completion time, the mean of the workloads' means.
        median: Median over the jobs of all workloads.
        p99: 99th percentile of the same.
        makespan: Mean of the workloads' makespans.
        restarts: Mean for each job.
        gpu_hours: Likewise.
        worst_fairness: The largest finish-time fairness ratio of a job.
        unfair: Part of the jobs whose ratio is above 1.
    """

    mean: float
    median: float
    p99: float
    makespan: float
    restarts: float
    gpu_hours: float
    worst_fairness: float
    unfair: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Ratio:
    """A ratio of mean completion times with its 95 % interval."""

    value: float
    low: float
    high: float


def summarise(outcomes: Sequence[Outcome]) -> Summary:
    """Sum up the outcomes of one scheduler."""
    results = [outcome.result for outcome in outcomes]
    seconds = np.concatenate([result.completion_seconds for result in results])
    fairness = np.concatenate([outcome.fairness for outcome in outcomes])
    jobs = [job for result in results for job in result.jobs]
    return Summary(
        mean=float(np.mean([result.mean_seconds for result in results])),
        median=float(np.median(seconds)),
        p99=float(np.percentile(seconds, 99)),
        makespan=float(np.mean([result.makespan_seconds for result in results])),
        restarts=float(np.mean([job.restarts for job in jobs])),
        gpu_hours=float(np.mean([job.gpu_seconds for job in jobs])) / 3600,
        worst_fairness=float(fairness.max()),
        unfair=float((fairness > 1).mean()),
    )


def ratio(ours: Sequence[Outcome], theirs: Sequence[Outcome], *, draws: int = 10_000, seed: int = 0) -> Ratio:
    """Mean completion time of one scheduler over that of another, by the paired bootstrap over workloads.

    Workloads are drawn with replacement, the same for both, so that what a workload does to both cancels out
    (Efron and Tibshirani, *An Introduction to the Bootstrap*, 1993, chapter 13: percentile interval).

    Args:
        ours: Outcomes of the one.
        theirs: Outcomes of the other, of the same workloads in the same order.
        draws: How many samples of workloads.
        seed: Of the draws.
    """
    if [outcome.workload for outcome in ours] != [outcome.workload for outcome in theirs]:
        raise ValueError("both must have run the same workloads")
    means = np.array([[outcome.result.mean_seconds for outcome in of] for of in (ours, theirs)])
    drawn = np.random.default_rng(seed).integers(0, means.shape[1], (draws, means.shape[1]))
    sampled = means[:, drawn].mean(axis=2)
    low, high = np.percentile(sampled[0] / sampled[1], [2.5, 97.5])
    value = means[0].mean() / means[1].mean()
    return Ratio(value=float(value), low=float(low), high=float(high))
