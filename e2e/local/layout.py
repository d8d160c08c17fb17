"""Where things lie and which addresses they have: the constants of every cluster."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

# Each cluster has a network namespace of its own, so these may be the same in all of them.
BRIDGE = "cra0"
GATEWAY = "10.244.0.1"
POD_CIDR = "10.244.0.0/16"
POD_NETMASK = "255.255.0.0"
SERVICE_CIDR = "10.96.0.0/16"
KUBERNETES_SERVICE_IP = "10.96.0.1"
CLUSTER_DNS = "10.96.0.10"
CLUSTER_DOMAIN = "cluster.local"
APISERVER_PORT = 6443
PROMETHEUS_PORT = 9090
STORAGE_PROVISIONER = "cra.dev/local"

REPOSITORY = Path(__file__).resolve().parents[2]


def cache_home() -> Path:
    """The user's cache directory for this project."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base).absolute() / "cra"


def clusters_home() -> Path:
    """Parent of the state directories of all clusters."""
    return cache_home() / "clusters"


def node_ip(index: int) -> str:
    """Address of the node at `index`; nodes live at the top of the pod range.

    Raises:
        ValueError: More nodes than addresses were kept for them.
    """
    if not 0 <= index < 240:
        raise ValueError(f"node {index}: a cluster has at most 240 nodes")
    return f"10.244.255.{10 + index}"


@dataclass(frozen=True)
class Layout:
    """Paths inside one cluster's state directory."""

    root: Path

    @property
    def record(self) -> Path:
        """What is needed to find and end the running cluster."""
        return self.root / "cluster.json"

    @property
    def lock(self) -> Path:
        """Held by the keeper for as long as the cluster lives."""
        return self.root / "lock"

    @property
    def control(self) -> Path:
        """Control socket of init."""
        return self.root / "control.sock"

    @property
    def logs(self) -> Path:
        """One file per component."""
        return self.root / "logs"

    @property
    def pki(self) -> Path:
        """Certificates and keys."""
        return self.root / "pki"

    @property
    def kubeconfig(self) -> Path:
        """Admin's kubeconfig for use on the host."""
        return self.root / "kubeconfig"

    @property
    def config(self) -> Path:
        """Files that components read at start."""
        return self.root / "config"

    @property
    def data(self) -> Path:
        """What etcd and Prometheus write."""
        return self.root / "data"

    @property
    def node(self) -> Path:
        """Root directory of the node agent."""
        return self.root / "node"

    @property
    def spec(self) -> Path:
        """The cluster's specification, read by keeper and init."""
        return self.config / "spec.json"

    @property
    def agent_config(self) -> Path:
        """What the node agent is told."""
        return self.config / "node-agent.json"

    @property
    def prometheus_config(self) -> Path:
        """Prometheus's configuration."""
        return self.config / "prometheus.yaml"

    def log(self, component: str) -> Path:
        """Log file of a component."""
        return self.logs / f"{component}.log"

    def internal_kubeconfig(self, user: str) -> Path:
        """Kubeconfig of a component inside the cluster's namespaces."""
        return self.config / f"{user}.kubeconfig"
