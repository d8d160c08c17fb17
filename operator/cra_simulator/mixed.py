"""A cluster of several types of GPU, made from what may be passed on.

The profiles that ship with the simulator were measured on T4. For other types their compute time is divided
by a factor for each application while communication stays as it was measured, and the best batch size is
searched anew. The factors are ratios of single-GPU throughputs between K80, P100 and V100 in the tables of
Gavel (Narayanan et al., OSDI'20; github.com/stanford-futuredata/gavel at c4fa4003,
`simulation_throughputs.json`, MIT licence), of the model there that is nearest. The T4 takes the place of the
P100, whose peak is near (8.1 and 9.3 TFLOP/s in single precision). So this is a plausible cluster, not a
measured one: compare schedulers on it, not GPUs.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np

from cra_simulator.cluster import Cluster, NodePool
from cra_simulator.errors import DataError
from cra_simulator.profiles import Profile
from cra_simulator.rates import RateTable, RateTables

SPEED: Mapping[str, Mapping[str, float]] = {
    "k80": {
        "cifar10": 0.15,  # ResNet-18, batch 128
        "imagenet": 0.22,  # ResNet-50, batch 128
        "bert": 0.32,  # Transformer, batch 128
        "deepspeech2": 0.29,  # LM, batch 80
        "yolov3": 0.21,  # CycleGAN
        "ncf": 0.49,  # Recommendation, batch 8192
    },
    "t4": {},
    "v100": {
        "cifar10": 1.54,
        "imagenet": 1.58,
        "bert": 1.77,
        "deepspeech2": 1.33,
        "yolov3": 1.84,
        "ncf": 0.51,
    },
}
"""Speed of computing over that of the profile, by type and application; 1 where nothing is said."""

MIXED_CLUSTER = Cluster(
    (
        NodePool(kind="k80", nodes=6, gpus=4),
        NodePool(kind="t4", nodes=6, gpus=4),
        NodePool(kind="v100", nodes=4, gpus=4),
    )
)
"""64 GPUs of three types, the number and proportions of Sia's heterogeneous cluster (SOSP'23, section 5)."""


def best_tables(
    applications: Collection[str],
    profiles: Path,
    cluster: Cluster,
    *,
    speed: Mapping[str, Mapping[str, float]] = SPEED,
) -> RateTables:
    """Rates at the best batch size, for all packed sizes of a cluster.

    Args:
        applications: Whose.
        profiles: A folder of profiles: `TYPE/APPLICATION` where one was measured on a type of GPU, else
            `APPLICATION`, whose computing is scaled by `speed`.
        cluster: Its pools' names are the types.
        speed: As `SPEED`. On a cluster of a single type that is not in it profiles hold as they are.

    Raises:
        DataError: A profile is missing or wrong, was measured on smaller nodes, or there is neither a profile
            nor a speed for a type.
    """
    sizes = cluster.packed_sizes()
    tables = {}
    for name in applications:
        of = profiles_of(name, profiles, cluster, speed=speed)
        first = of[0][0]
        most = max(profile.most_gpus() for profile, _ in of)
        rate = np.zeros((first.epochs, len(sizes)))
        for column, (gpus, kind) in enumerate(zip(sizes.gpus.tolist(), sizes.kind.tolist(), strict=True)):
            profile, factor = of[kind]
            if 0 < gpus <= profile.most_gpus():
                node = cluster.pools[kind].gpus
                rate[:, column] = profile.best((node,) * (gpus // node) or (gpus,), speed=factor)
        tables[name] = RateTable(
            progress=first.progress, rate=rate, max_gpus=min(most, int(sizes.gpus.max()))
        )
    return RateTables(sizes=sizes, tables=tables)


def profiles_of(
    name: str, profiles: Path, cluster: Cluster, *, speed: Mapping[str, Mapping[str, float]] = SPEED
) -> list[tuple[Profile, float]]:
    """The profile of an application for each type of GPU, and by what its computing is faster there.

    Arguments and errors are those of `best_tables`.
    """
    return [_profile(profiles, name, pool, cluster, speed) for pool in cluster.pools]


def _profile(
    profiles: Path, name: str, pool: NodePool, cluster: Cluster, speed: Mapping[str, Mapping[str, float]]
) -> tuple[Profile, float]:
    own = profiles / pool.kind / name
    if own.is_dir():
        profile, factor = Profile(own), 1.0
    elif not (profiles / name).is_dir():
        raise DataError(f"{profiles} has no profile of {name!r}")
    elif pool.kind in speed or len(cluster.pools) == 1:
        profile, factor = Profile(profiles / name), speed.get(pool.kind, {}).get(name, 1.0)
    else:
        known = ", ".join(speed)
        raise DataError(f"nothing is known of GPUs of type {pool.kind!r}: add {own}, or use {known}")
    if pool.gpus > profile.node_gpus:
        raise DataError(
            f"{name} was measured on nodes of {profile.node_gpus} GPUs, not of {pool.gpus}: add {own}"
        )
    return profile, factor
