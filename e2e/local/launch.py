"""Turning a description into a running keeper: files, certificates, host-side sockets, one process."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from e2e.local import components, control, state
from e2e.local import layout as addresses
from e2e.local.gputypes import NodeSpec
from e2e.local.layout import Layout
from e2e.local.node.config import AgentConfig, GpuType, ImageConfig, NodeConfig
from e2e.local.pki import write_pki
from e2e.local.spec import ClusterSpec
from e2e.local.state import Record


@dataclass(frozen=True, kw_only=True)
class Description:
    """What a cluster is to consist of; see `e2e.local.cluster.Cluster.start` for the fields."""

    tools: Mapping[str, Path]
    nodes: Sequence[NodeSpec]
    gpu_types: Mapping[str, GpuType]
    images: Mapping[str, ImageConfig]
    scrape_interval: str


def launch(
    layout: Layout, description: Description, *, lock: int, detached: bool
) -> tuple[Record, subprocess.Popen[bytes]]:
    """Start a cluster's keeper.

    Args:
        layout: Its state directory, swept.
        description: What it consists of.
        lock: The claim on its name, which the keeper takes over.
        detached: Whether it outlives this process.

    Returns:
        Its record, written already, and the keeper's process.
    """
    for folder in (layout.logs, layout.pki, layout.config, layout.data, layout.node):
        folder.mkdir(mode=0o700)
    with (
        _listen() as api,
        _listen() as prometheus,
        control.listen(layout.control) as listener,
        layout.log("init").open("wb") as log,
    ):
        api_url = f"https://127.0.0.1:{api.getsockname()[1]}"
        prometheus_url = f"http://127.0.0.1:{prometheus.getsockname()[1]}"
        _write_files(layout, description, api_url)
        argv = [
            *(sys.executable, "-m", "e2e.local.keeper"),
            f"--spec={layout.spec}",
            f"--control-fd={listener.fileno()}",
            f"--api-fd={api.fileno()}",
            f"--prometheus-fd={prometheus.fileno()}",
        ]
        process = subprocess.Popen(
            argv if detached else [*argv, f"--launcher={os.getpid()}"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=addresses.REPOSITORY,
            start_new_session=True,
            pass_fds=(lock, listener.fileno(), api.fileno(), prometheus.fileno()),
        )
    record = Record(
        keeper=process.pid,
        started=state.start_time(process.pid) or 0,
        prometheus_url=prometheus_url,
        tools={tool: str(path) for tool, path in description.tools.items()},
    )
    record.write(layout.record)
    return record, process


def _write_files(layout: Layout, description: Description, api_url: str) -> None:
    node_ips = [addresses.node_ip(index) for index in range(len(description.nodes))]
    write_pki(layout, node_ips, api_url)
    agent_config(layout, description).dump(layout.agent_config)
    prometheus = components.prometheus_config(layout, description.scrape_interval)
    layout.prometheus_config.write_text(yaml.safe_dump(prometheus))
    spec = ClusterSpec(
        name=layout.root.name,
        root=layout.root,
        tools=description.tools,
        nodes=[node.name for node in description.nodes],
    )
    layout.spec.write_text(spec.dump())


def agent_config(layout: Layout, description: Description) -> AgentConfig:
    """What the node agent is told."""
    return AgentConfig(
        kubeconfig=layout.internal_kubeconfig("node-agent"),
        ca=layout.pki / "ca.crt",
        serving_cert=layout.pki / "kubelet.crt",
        serving_key=layout.pki / "kubelet.key",
        client_ca=layout.pki / "ca.crt",
        root_dir=layout.node,
        nodes=tuple(
            NodeConfig(
                name=node.name,
                ip=addresses.node_ip(index),
                cpu=node.cpu,
                memory=node.memory,
                gpus=node.gpus,
                gpu_type=node.gpu_type,
                labels=node.labels,
            )
            for index, node in enumerate(description.nodes)
        ),
        gpu_types=dict(description.gpu_types),
        images=dict(description.images),
        pod_cidr=addresses.POD_CIDR,
        gateway=addresses.GATEWAY,
        bridge=addresses.BRIDGE,
        service_cidr=addresses.SERVICE_CIDR,
        cluster_dns=addresses.CLUSTER_DNS,
        cluster_domain=addresses.CLUSTER_DOMAIN,
    )


def _listen() -> socket.socket:
    """A listening TCP socket on a free port of the host's loopback device."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(128)
    return listener
