"""The machines of a simulated cluster, and the sizes that they can offer."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from cra_operator.controller.policy import Ints, Sizes
from cra_simulator.errors import DataError


@dataclass(frozen=True, kw_only=True)
class NodePool:
    """Equal nodes.

    Attributes:
        kind: Name of the GPU type.
        nodes: How many there are.
        gpus: GPUs of each.
    """

    kind: str
    nodes: int
    gpus: int


@dataclass(frozen=True)
class Cluster:
    """A fixed set of nodes, one pool for each type of GPU.

    Attributes:
        pools: The pools; their order is that of the types in every array.
    """

    pools: tuple[NodePool, ...]

    @property
    def capacity(self) -> Ints:
        """GPUs by type, [T]."""
        return np.array([pool.nodes * pool.gpus for pool in self.pools])

    @property
    def node_gpus(self) -> Ints:
        """GPUs of one node by type, [T]."""
        return np.array([pool.gpus for pool in self.pools])

    def packed_sizes(self) -> Sizes:
        """Sizes that always pack: powers of two inside a node, then whole nodes (as in Sia, SOSP'23)."""
        found = [(0, 0, 0)]
        for kind, pool in enumerate(self.pools):
            inside = [2**i for i in range(pool.gpus.bit_length()) if 2**i < pool.gpus]
            found += [(gpus, 1, kind) for gpus in inside]
            found += [(nodes * pool.gpus, nodes, kind) for nodes in range(1, pool.nodes + 1)]
        return _sizes(found)

    def all_sizes(self) -> Sizes:
        """Every number of GPUs of every type."""
        found = [(0, 0, 0)]
        for kind, pool in enumerate(self.pools):
            numbers = range(1, pool.nodes * pool.gpus + 1)
            found += [(gpus, -(-gpus // pool.gpus), kind) for gpus in numbers]
        return _sizes(found)


def _sizes(rows: Iterable[tuple[int, int, int]]) -> Sizes:
    gpus, nodes, kind = (np.array(column, dtype=np.int64) for column in zip(*rows, strict=True))
    return Sizes(gpus=gpus, nodes=nodes, kind=kind)


def parse_cluster(spec: str) -> Cluster:
    """A cluster from `TYPE:NODESxGPUS`, pools of several types with commas: `t4:6x4,v100:4x4`.

    Raises:
        DataError: It is not of that form.
    """
    pools = []
    for part in spec.split(","):
        found = re.fullmatch(r"([A-Za-z][\w.-]*):([1-9]\d*)x([1-9]\d*)", part.strip())
        if not found:
            raise DataError(f"cluster {spec!r}: {part.strip()!r} is not TYPE:NODESxGPUS, such as t4:16x4")
        pools.append(NodePool(kind=found[1], nodes=int(found[2]), gpus=int(found[3])))
    if len({pool.kind for pool in pools}) < len(pools):
        raise DataError(f"cluster {spec!r}: each type may be named once")
    return Cluster(tuple(pools))


POLLUX_CLUSTER = Cluster((NodePool(kind="t4", nodes=16, gpus=4),))
"""16 g4dn.12xlarge: the cluster of the Pollux evaluation (OSDI'21, section 5.1)."""
