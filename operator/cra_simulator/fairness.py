"""Is anybody worse off than with a cluster of one's own?

Finish-time fairness (Themis; Mahajan et al., NSDI'20, section 3) is a job's completion time over the time
that it would take alone on its fair share of the cluster. The share is the cluster divided by the average
number of jobs that were there while this one was. Above 1 sharing did not pay for the job.
"""

from __future__ import annotations

import numpy as np

from cra_operator.controller.policy import Floats
from cra_simulator.cluster import Cluster
from cra_simulator.rates import RateTable, RateTables
from cra_simulator.result import Result


def finish_time_fairness(result: Result, rates: RateTables, cluster: Cluster) -> Floats:
    """The ratio of each job, [J].

    A share is used as the best size within it; below the smallest size that size is held for a part of the
    time. On several types of GPU the share is the same part of each.

    Args:
        result: Of a run.
        rates: At the best batch size, whatever the run had.
        cluster: Where.
    """
    start = np.array([job.submitted for job in result.jobs])
    end = np.array([job.finished for job in result.jobs])
    shared = np.minimum(end[:, None], end) - np.maximum(start[:, None], start)
    others = np.maximum(shared, 0.0).sum(axis=1) / (end - start)
    share = cluster.capacity.sum() / others
    seconds = {name: _seconds(table) for name, table in rates.tables.items()}
    alone = [
        _alone(seconds[job.application], rates, cluster, g) for job, g in zip(result.jobs, share, strict=True)
    ]
    fairness: Floats = (end - start) / np.array(alone)
    return fairness


def _seconds(table: RateTable) -> Floats:
    """Seconds that the whole work takes at each size, [K]; infinite where it does not run."""
    work = np.diff(table.progress, prepend=0.0)[:, None]
    by_epoch = np.divide(work, table.rate, out=np.full_like(table.rate, np.inf), where=table.rate > 0)
    seconds: Floats = by_epoch.sum(axis=0)
    return seconds


def _alone(seconds: Floats, rates: RateTables, cluster: Cluster, share: float) -> float:
    """Seconds that a job takes on so many GPUs of the cluster's mixture."""
    sizes, capacity = rates.sizes, cluster.capacity
    speed = 0.0
    for kind, gpus in enumerate(capacity):
        of_kind = (sizes.kind == kind) & np.isfinite(seconds)
        within = of_kind & (sizes.gpus <= share)
        if within.any():
            fastest = seconds[within].min()
        elif of_kind.any():
            smallest = np.flatnonzero(of_kind)[0]
            fastest = seconds[smallest] * sizes.gpus[smallest] / share
        else:
            continue
        speed += gpus / capacity.sum() / fastest
    return 1.0 / speed
