"""A control plane of their own for the tests that run the operator: nobody else's operator acts on it."""

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.local import Cluster, NodeSpec
from e2e.operator_chart import install_crd
from tests.operator.operator_process import OperatorProcess, User

NODES = [NodeSpec(name="gpu-0", gpus=4, gpu_type="H100")]


@pytest.fixture(scope="session")
def stage() -> Iterator[Cluster]:
    """One node with four GPUs."""
    with Cluster.start(f"operator-{os.getpid()}", nodes=NODES) as cluster:
        install_crd(cluster)
        yield cluster


@pytest.fixture
def operator(stage: Cluster, tmp_path: Path) -> Iterator[OperatorProcess]:
    """A running operator, stopped after the test."""
    running = OperatorProcess(stage, tmp_path / "operator.log")
    try:
        running.wait_ready()
        yield running
    finally:
        if running.process.poll() is None:
            running.stop()
        print(running.log)


@pytest.fixture
def user(stage: Cluster) -> Iterator[User]:
    """A user with a fresh namespace, emptied after the test so that the next one finds its GPUs free."""
    namespace = f"t-{uuid.uuid4().hex[:8]}"
    stage.kubectl("create", "namespace", namespace)
    stage.kubectl("wait", "--for=create", "-n", namespace, "serviceaccount/default", "--timeout=30s")
    user = User(stage, namespace)
    yield user
    user.kubectl("delete", "crj", "--all")
    user.kubectl("delete", "pods", "--all", "--grace-period=0", "--force")
    stage.kubectl("delete", "namespace", namespace, "--wait=false")
