"""Helm, and a control plane without nodes to install into."""

import os
from collections.abc import Iterator

import pytest

from e2e.local import Cluster
from e2e.local.toolchain import ensure_tools
from tests.chart.rendering import Helm


@pytest.fixture(scope="session")
def helm() -> Helm:
    """The Helm that the embedded cluster uses."""
    return Helm(ensure_tools()["helm"])


@pytest.fixture(scope="session")
def control_plane() -> Iterator[Cluster]:
    """A cluster of its own without nodes, for installing and uninstalling even the CRD."""
    with Cluster.start(f"chart-{os.getpid()}", nodes=()) as cluster:
        yield cluster
