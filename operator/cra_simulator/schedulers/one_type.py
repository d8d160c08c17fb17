"""For schedulers whose papers know a single type of GPU."""

from __future__ import annotations

from cra_operator.controller.policy import ClusterObservation


def capacity_of(seen: ClusterObservation) -> int:
    """GPUs of the cluster.

    Raises:
        ValueError: They are of several types.
    """
    if len(seen.capacity) != 1:
        raise ValueError(f"this scheduler knows one type of GPU, and the cluster has {len(seen.capacity)}")
    return int(seen.capacity[0])
