"""Simulated GPUs: what a type is worth, and the nodes that carry them.

A simulated GPU is a CPU quota: a container with n GPUs of a type may burn n times the type's `core_share` of
one core. The shares keep the order of the real parts and are small enough that several GPUs fit on a machine
with two cores.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from e2e.local.node.config import GpuType


@dataclass(frozen=True, kw_only=True)
class NodeSpec:
    """One simulated node.

    Attributes:
        name: Node name, an RFC 1123 subdomain.
        gpus: How many GPUs it has; 0 makes a CPU-only node.
        gpu_type: Key of the cluster's table of types; empty exactly when `gpus` is 0.
        cpu: CPU capacity, a Kubernetes quantity.
        memory: Memory capacity, a Kubernetes quantity.
        labels: Labels beside those that every node has.
    """

    name: str
    gpus: int = 0
    gpu_type: str = ""
    cpu: str = "8"
    memory: str = "16Gi"
    labels: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if (self.gpus > 0) != bool(self.gpu_type):
            raise ValueError(f"node {self.name}: gpus and gpu_type belong together; give both, or neither")


GPU_TYPES: Mapping[str, GpuType] = MappingProxyType(
    {
        "H100": GpuType(product="NVIDIA-H100-SIM", core_share=1.0, memory_mib=81920),
        "A100": GpuType(product="NVIDIA-A100-SIM", core_share=0.5, memory_mib=40960),
        "T4": GpuType(product="NVIDIA-T4-SIM", core_share=0.25, memory_mib=16384),
    }
)

DEFAULT_NODES: Sequence[NodeSpec] = (
    NodeSpec(name="gpu-a-0", gpus=4, gpu_type="A100"),
    NodeSpec(name="gpu-b-0", gpus=4, gpu_type="T4"),
    NodeSpec(name="cpu-0"),
)
