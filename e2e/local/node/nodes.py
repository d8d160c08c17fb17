"""Nodes: what they register, their heartbeats, and their loss on request.

A node that carries the annotation `sim.cra.dev/lost: "true"` plays dead: no lease, no status, its processes
killed, nothing reported, until the annotation goes; then it comes back as after a crash of the machine.
"""

import asyncio
import logging
import os
from collections.abc import Mapping

from .api import UNREACHABLE, Api, ApiError, Object
from .clock import now, now_precise
from .config import AgentConfig, GpuType, NodeConfig
from .gpu import RESOURCE, Devices

_log = logging.getLogger(__name__)
LOST_ANNOTATION = "sim.cra.dev/lost"
KUBELET_PORT = 10250
_NODES = "/api/v1/nodes"
_LEASE_VERSION = "coordination.k8s.io/v1"
_LEASES = f"/apis/{_LEASE_VERSION}/namespaces/kube-node-lease/leases"
_STATUS_EVERY_RENEWALS = 6
_RETRY_SECONDS = 0.5
_NOT_FOUND, _CONFLICT = 404, 409
_ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine]
_VERSION = "v1.36.0-cra-node-agent"


class Node:
    """One node and its connection to the control plane."""

    def __init__(self, config: NodeConfig, agent: AgentConfig) -> None:
        self.config = config
        self.devices = Devices(config)
        self.gpu_type: GpuType | None = agent.gpu_types.get(config.gpu_type)
        self.reachable = asyncio.Event()
        """Set while the node is in touch with the control plane; whoever reports on its pods waits for it."""
        self.reachable.set()
        self.ready_since = now()
        self._lease_seconds = agent.lease_seconds

    @property
    def allocatable(self) -> Mapping[str, str]:
        """What pods can ask for."""
        amounts = {"cpu": self.config.cpu, "memory": self.config.memory, "pods": str(self.config.pods)}
        return amounts | ({RESOURCE: str(self.config.gpus)} if self.config.gpus else {})

    async def run(self, api: Api) -> None:
        """Registers, then sends heartbeats until cancelled."""
        registered = False
        renewals = 0
        while True:
            if not self.reachable.is_set():
                await self.reachable.wait()
                self.ready_since = now()
                renewals = 0
            try:
                if not registered:
                    await self._register(api)
                    registered = True
                if renewals % _STATUS_EVERY_RENEWALS == 0:
                    status = {"status": status_of(self, now())}
                    await api.patch(f"{_NODES}/{self.config.name}/status", status)
                await self._renew(api)
                renewals += 1
                await asyncio.sleep(self._lease_seconds / 4)
            except (ApiError, *UNREACHABLE) as error:
                # Also heals the deletion of the node by somebody else.
                registered = False
                renewals = 0
                _log.info("node %s: %s", self.config.name, error)
                await asyncio.sleep(_RETRY_SECONDS)

    async def _register(self, api: Api) -> None:
        try:
            await api.create(_NODES, manifest(self, now()))
        except ApiError as error:
            if error.status != _CONFLICT:
                raise
            labels = {"metadata": {"labels": manifest(self, now())["metadata"]["labels"]}}
            await api.patch(f"{_NODES}/{self.config.name}", labels)

    async def _renew(self, api: Api) -> None:
        name = self.config.name
        spec = {
            "holderIdentity": name,
            "leaseDurationSeconds": self._lease_seconds,
            "renewTime": now_precise(),
        }
        try:
            await api.patch(f"{_LEASES}/{name}", {"spec": spec})
        except ApiError as error:
            if error.status != _NOT_FOUND:
                raise
            uid = (await api.get(f"{_NODES}/{name}"))["metadata"]["uid"]
            owner = {"apiVersion": "v1", "kind": "Node", "name": name, "uid": uid}
            lease = {"metadata": {"name": name, "ownerReferences": [owner]}, "spec": spec}
            await api.create(_LEASES, {"apiVersion": _LEASE_VERSION, "kind": "Lease", **lease})


def manifest(node: Node, time: str) -> Object:
    """The node as it registers itself."""
    config = node.config
    labels = {
        "kubernetes.io/hostname": config.name,
        "kubernetes.io/os": "linux",
        "kubernetes.io/arch": _ARCHITECTURE,
        **config.labels,
    }
    if node.gpu_type is not None:
        labels |= {
            "nvidia.com/gpu.present": "true",
            "nvidia.com/gpu.product": node.gpu_type.product,
            "nvidia.com/gpu.count": str(config.gpus),
            "nvidia.com/gpu.memory": str(node.gpu_type.memory_mib),
        }
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": config.name, "labels": labels},
        "spec": {},
        "status": status_of(node, time),
    }


def status_of(node: Node, time: str) -> Object:
    """The status of a healthy node."""
    config = node.config
    conditions = [
        ("MemoryPressure", "False", "KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
        ("DiskPressure", "False", "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
        ("PIDPressure", "False", "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
        ("Ready", "True", "KubeletReady", "node agent is posting ready status"),
    ]
    return {
        "capacity": dict(node.allocatable),
        "allocatable": dict(node.allocatable),
        "conditions": [
            {
                "type": kind,
                "status": value,
                "reason": reason,
                "message": message,
                "lastHeartbeatTime": time,
                "lastTransitionTime": node.ready_since,
            }
            for kind, value, reason, message in conditions
        ],
        "addresses": [
            {"type": "InternalIP", "address": config.ip},
            {"type": "Hostname", "address": config.name},
        ],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": KUBELET_PORT}},
        "nodeInfo": {
            "architecture": _ARCHITECTURE,
            "bootID": config.name,
            "containerRuntimeVersion": "host://1",
            "kernelVersion": "simulated",
            "kubeProxyVersion": "",
            "kubeletVersion": _VERSION,
            "machineID": config.name,
            "operatingSystem": "linux",
            "osImage": "the host's",
            "systemUUID": config.name,
        },
    }
