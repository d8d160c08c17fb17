"""The embedded cluster: a real control plane and simulated GPU nodes on one machine, without containers.

>>> with Cluster.start("play") as cluster:
...     print(cluster.kubectl("get", "nodes"))
"""

from e2e.local.cluster import Cluster
from e2e.local.gputypes import DEFAULT_NODES, GPU_TYPES, NodeSpec
from e2e.local.node.config import GpuType, ImageConfig

__all__ = ["DEFAULT_NODES", "GPU_TYPES", "Cluster", "GpuType", "ImageConfig", "NodeSpec"]
