"""What the learned policies know: one token for each job, and a few numbers about the cluster as a whole.

Features are relative where they can be, near 1 in size and clamped, so that a cluster that is larger or
busier than those of training gives numbers that training saw. As in `goodput`, functions keep to what Numba
knows.
"""

from __future__ import annotations

import numpy as np

from cra_operator.controller.policies.goodput import base_rate
from cra_operator.controller.policy import Floats, Ints

JOB_FEATURES = (
    "log T1",
    "log T1 squared",
    "log T1 x load",
    "log T1 x log T1 x load",
    "rank by T1",
    "log age",
    "log age over T1",
    "part done",
    "has GPUs",
    "log GPUs held",
    "log limit",
    "log restart",
    "restart over T1",
    "speed-up at 2x",
    "speed-up at 4x",
    "speed-up at 16x",
    "speed-up at a fair share",
    "load",
    "load squared",
    "one",
)
"""Of each job; T1 is the time that it would still take on a single GPU."""
CLUSTER_FEATURES = ("load", "backlog", "part running", "part unexplored")
"""Of all jobs: jobs for each GPU, work for each GPU, the part that has GPUs, and the part that cannot grow to
its share yet."""

JOBS = len(JOB_FEATURES)
CLUSTER = len(CLUSTER_FEATURES)
_LIMIT = 3.0


def speed_profile(rate: Floats, gpus: Ints) -> Floats:
    """How a job scales, [J, 4]: its smallest size, then the best speed-up within 2, 4 and 16 times that.

    Speed-ups are logarithms over that of perfect scaling: 0 for none, 1 for perfect.
    """
    base, size = base_rate(rate, gpus)
    found = np.zeros((len(rate), 4))
    found[:, 0] = size
    for k in range(1, len(gpus)):
        faster = np.log(np.maximum(rate[:, k] / (base * size), 1.0))
        for i, factor in enumerate((2.0, 4.0, 16.0)):
            scaled = np.where(gpus[k] <= factor * size, faster / np.log(factor), 0.0)
            found[:, i + 1] = np.maximum(found[:, i + 1], scaled)
    return found


def load_of(jobs: int, capacity: float) -> float:
    """The load as policies see it: the logarithm of jobs for each node of four GPUs; 0 for as many."""
    return float(np.log(4.0 * jobs / capacity))


def job_tokens(
    alone: Floats,
    profile: Floats,
    age: Floats,
    attained: Floats,
    held: Floats,
    limit: Floats,
    restart_seconds: Floats,
    capacity: float,
) -> Floats:
    """Tokens of all jobs, [J, `JOBS`].

    Args:
        alone: T1 in seconds, [J].
        profile: See `speed_profile`, [J, 4].
        age: Seconds since submission, [J].
        attained: GPU-seconds so far, [J].
        held: GPUs that each job has now, [J].
        limit: Most GPUs that it may have now, [J].
        restart_seconds: What a change costs, [J].
        capacity: GPUs of the cluster.
    """
    jobs = len(alone)
    load = min(max(np.log(4.0 * jobs / capacity), -2.0), 2.5)
    log_alone = np.log(alone)
    size = (log_alone - 9.0) / 2.0
    share = np.log(np.maximum(capacity / jobs / profile[:, 0], 1.0)) / np.log(2.0)
    # Between the known speed-ups, in steps of doublings: 0 at one GPU, then at 2, 4 and 16.
    two, four, many = profile[:, 1], 2.0 * profile[:, 2], 4.0 * profile[:, 3]
    at_share = np.where(
        share <= 1.0,
        share * two,
        np.where(
            share <= 2.0,
            two + (share - 1.0) * (four - two),
            four + (np.minimum(share, 4.0) - 2.0) * (many - four) / 2.0,
        ),
    )
    rank = np.empty(jobs)
    # Stable, so that the earlier of two equal jobs is the same one wherever this runs.
    rank[np.argsort(alone, kind="mergesort")] = (np.arange(jobs) + 0.5) / jobs - 0.5
    x = np.empty((jobs, JOBS))
    x[:, 0] = size
    x[:, 1] = size * size / 2.0
    x[:, 2] = size * load
    x[:, 3] = size * size * load / 2.0
    x[:, 4] = 2.0 * rank
    x[:, 5] = (np.log(age + 60.0) - 8.0) / 2.0
    x[:, 6] = (np.log(age + 60.0) - log_alone) / 2.0
    x[:, 7] = 2.0 * attained / (attained + alone)
    x[:, 8] = np.where(held > 0, 1.0, 0.0)
    x[:, 9] = np.log(held + 1.0) / 2.0
    x[:, 10] = np.log(limit / profile[:, 0] + 1.0) / 2.0
    x[:, 11] = (np.log(restart_seconds + 1.0) - 3.4) / 2.0
    x[:, 12] = (np.log(restart_seconds + 1.0) - log_alone + 5.0) / 2.0
    x[:, 13] = profile[:, 1]
    x[:, 14] = profile[:, 2]
    x[:, 15] = profile[:, 3]
    x[:, 16] = at_share / 2.0
    x[:, 17] = load
    x[:, 18] = load * load / 2.0
    x[:, 19] = 1.0
    return np.minimum(np.maximum(x, -_LIMIT), _LIMIT)


def cluster_tokens(alone: Floats, profile: Floats, held: Floats, limit: Floats, capacity: float) -> Floats:
    """The state of the whole cluster, [`CLUSTER`]."""
    jobs = len(alone)
    share = np.maximum(capacity / jobs, 1.0)
    y = np.empty(CLUSTER)
    y[0] = np.log(4.0 * jobs / capacity)
    y[1] = (np.log(np.sum(np.minimum(alone, 4e5)) / capacity) - 9.0) / 2.0
    y[2] = 2.0 * np.sum(np.where(held > 0, 1.0, 0.0)) / jobs - 1.0
    y[3] = 2.0 * np.sum(np.where(limit < np.maximum(share, profile[:, 0]), 1.0, 0.0)) / jobs - 1.0
    return np.minimum(np.maximum(y, -_LIMIT), _LIMIT)
