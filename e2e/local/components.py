"""Command lines and configuration of the control plane's programs: pure functions of the layout.

Defaults of the programs are kept wherever a production cluster would keep them (priority and fairness, Pod
Security admission, watch cache, real controllers under their own service accounts). What differs, differs for
one of two reasons: the cluster lives for minutes (etcd without fsync, no leader election), or it starts cold
every time and must do so in seconds (request rates, retry periods).
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from e2e.local.layout import (
    APISERVER_PORT,
    GATEWAY,
    POD_CIDR,
    PROMETHEUS_PORT,
    SERVICE_CIDR,
    Layout,
)

ETCD_PORT = 2379
CONTROLLER_MANAGER_PORT = 10257
SCHEDULER_PORT = 10259
EXPORTER_PORT = 9400


@dataclass(frozen=True, kw_only=True)
class Component:
    """A program that init runs.

    Attributes:
        name: Its name in logs, status and control requests.
        argv: Command line.
        health: URL that answers 200 once it works, where it has one.
        client: Base name of the client certificate that the URL asks for, with the authority that signed it.
    """

    name: str
    argv: Sequence[str]
    health: str | None = None
    client: tuple[str, str] = ("admin", "ca")


def etcd(tool: Path, layout: Layout) -> Component:
    """The store, reachable with a certificate of its own authority only."""
    url = f"https://127.0.0.1:{ETCD_PORT}"
    peer = "http://127.0.0.1:2380"
    argv = [
        str(tool),
        "--name=cra",
        f"--data-dir={layout.data / 'etcd'}",
        f"--listen-client-urls={url}",
        f"--advertise-client-urls={url}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=cra={peer}",
        f"--trusted-ca-file={layout.pki / 'etcd-ca.crt'}",
        f"--cert-file={layout.pki / 'etcd.crt'}",
        f"--key-file={layout.pki / 'etcd.key'}",
        "--client-cert-auth",
        "--unsafe-no-fsync",
        # A member alone elects itself after one election time-out; short ones save a second of every start.
        "--heartbeat-interval=10",
        "--election-timeout=100",
        "--log-level=warn",
    ]
    return Component(name="etcd", argv=argv, health=f"{url}/health", client=("etcd-client", "etcd-ca"))


def apiserver(tool: Path, layout: Layout) -> Component:
    """The API server: RBAC and Node authorizers, certificates and bound tokens only, nobody anonymous."""
    pki = layout.pki
    argv = [
        str(tool),
        f"--advertise-address={GATEWAY}",
        "--bind-address=0.0.0.0",
        f"--secure-port={APISERVER_PORT}",
        f"--tls-cert-file={pki / 'apiserver.crt'}",
        f"--tls-private-key-file={pki / 'apiserver.key'}",
        f"--client-ca-file={pki / 'ca.crt'}",
        "--anonymous-auth=false",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        "--allow-privileged=true",
        f"--etcd-servers=https://127.0.0.1:{ETCD_PORT}",
        f"--etcd-cafile={pki / 'etcd-ca.crt'}",
        f"--etcd-certfile={pki / 'etcd-client.crt'}",
        f"--etcd-keyfile={pki / 'etcd-client.key'}",
        f"--kubelet-certificate-authority={pki / 'ca.crt'}",
        f"--kubelet-client-certificate={pki / 'apiserver-kubelet.crt'}",
        f"--kubelet-client-key={pki / 'apiserver-kubelet.key'}",
        "--kubelet-preferred-address-types=InternalIP",
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
        f"--service-account-key-file={pki / 'service-account.pub'}",
        f"--service-account-signing-key-file={pki / 'service-account.key'}",
        f"--service-cluster-ip-range={SERVICE_CIDR}",
        "--profiling=false",
    ]
    return Component(name="kube-apiserver", argv=argv, health=f"https://127.0.0.1:{APISERVER_PORT}/readyz")


def controller_manager(tool: Path, layout: Layout) -> Component:
    """All default controllers, each under its own service account, so that RBAC is exercised."""
    pki, config = layout.pki, layout.internal_kubeconfig("kube-controller-manager")
    argv = [
        str(tool),
        f"--kubeconfig={config}",
        "--bind-address=127.0.0.1",
        f"--secure-port={CONTROLLER_MANAGER_PORT}",
        f"--tls-cert-file={pki / 'loopback.crt'}",
        f"--tls-private-key-file={pki / 'loopback.key'}",
        "--leader-elect=false",
        "--use-service-account-credentials=true",
        f"--service-account-private-key-file={pki / 'service-account.key'}",
        f"--root-ca-file={pki / 'ca.crt'}",
        f"--cluster-cidr={POD_CIDR}",
        "--allocate-node-cidrs=false",
        f"--service-cluster-ip-range={SERVICE_CIDR}",
        "--kube-api-qps=100",
        "--kube-api-burst=200",
        "--profiling=false",
    ]
    health = f"https://127.0.0.1:{CONTROLLER_MANAGER_PORT}/healthz"
    return Component(name="kube-controller-manager", argv=argv, health=health)


def scheduler(tool: Path, layout: Layout) -> Component:
    """The default scheduler."""
    pki, config = layout.pki, layout.internal_kubeconfig("kube-scheduler")
    argv = [
        str(tool),
        f"--kubeconfig={config}",
        "--bind-address=127.0.0.1",
        f"--secure-port={SCHEDULER_PORT}",
        f"--tls-cert-file={pki / 'loopback.crt'}",
        f"--tls-private-key-file={pki / 'loopback.key'}",
        "--leader-elect=false",
        "--profiling=false",
    ]
    return Component(name="kube-scheduler", argv=argv, health=f"https://127.0.0.1:{SCHEDULER_PORT}/readyz")


def prometheus(tool: Path, layout: Layout) -> Component:
    """Prometheus, for the cluster's pods at the gateway's address and for the host through the forwarder."""
    argv = [
        str(tool),
        f"--config.file={layout.prometheus_config}",
        f"--storage.tsdb.path={layout.data / 'prometheus'}",
        f"--web.listen-address=0.0.0.0:{PROMETHEUS_PORT}",
        "--storage.tsdb.retention.time=1d",
        "--log.level=warn",
    ]
    return Component(name="prometheus", argv=argv, health=f"http://127.0.0.1:{PROMETHEUS_PORT}/-/ready")


def node_agent(layout: Layout) -> Component:
    """The stand-in for the kubelets; ready when all nodes are."""
    argv = [sys.executable, "-m", "e2e.local.node", "--config", str(layout.agent_config)]
    return Component(name="node-agent", argv=argv)


def prometheus_config(layout: Layout, scrape_interval: str) -> dict[str, Any]:
    """Prometheus's configuration.

    Pods are scraped by their ``prometheus.io/*`` annotations and get the labels `namespace`, `pod` and
    `node`. Nodes are scraped for the exporter, whose own `namespace` and `pod` labels win (`honor_labels`),
    as they do with the real exporter.
    """
    pods = [
        _keep("__meta_kubernetes_pod_annotation_prometheus_io_scrape", "true"),
        # A pod that ended keeps its address in status for a while; it may belong to another pod by now.
        {"source_labels": ["__meta_kubernetes_pod_phase"], "regex": "Succeeded|Failed", "action": "drop"},
        _copy("__meta_kubernetes_pod_annotation_prometheus_io_path", "__metrics_path__", "(.+)"),
        {
            "source_labels": [
                "__meta_kubernetes_pod_ip",
                "__meta_kubernetes_pod_annotation_prometheus_io_port",
            ],
            "separator": ":",
            "target_label": "__address__",
        },
        # Discovery lists a pod once per container port; equal labels make one target of these.
        _copy("__meta_kubernetes_namespace", "namespace"),
        _copy("__meta_kubernetes_pod_name", "pod"),
        _copy("__meta_kubernetes_pod_node_name", "node"),
    ]
    nodes = [
        {
            "source_labels": ["__meta_kubernetes_node_address_InternalIP"],
            "replacement": f"$1:{EXPORTER_PORT}",
            "target_label": "__address__",
        },
        _copy("__meta_kubernetes_node_name", "node"),
    ]
    return {
        "global": {"scrape_interval": scrape_interval, "scrape_timeout": scrape_interval},
        "scrape_configs": [
            {
                "job_name": "pods",
                "kubernetes_sd_configs": [_discovery("pod", layout)],
                "relabel_configs": pods,
            },
            {
                "job_name": "dcgm-exporter",
                "honor_labels": True,
                "kubernetes_sd_configs": [_discovery("node", layout)],
                "relabel_configs": nodes,
            },
        ],
    }


def _discovery(role: str, layout: Layout) -> Mapping[str, str]:
    return {"role": role, "kubeconfig_file": str(layout.internal_kubeconfig("prometheus"))}


def _keep(label: str, value: str) -> Mapping[str, Any]:
    return {"source_labels": [label], "regex": value, "action": "keep"}


def _copy(source: str, target: str, regex: str = "(.*)") -> Mapping[str, Any]:
    return {"source_labels": [source], "regex": regex, "target_label": target}
