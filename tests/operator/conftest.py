"""A control plane of their own for the tests that run the operator: nobody else's operator acts on it."""

import os
import uuid
from collections.abc import Iterator

import pytest

from e2e.local import Cluster, NodeSpec
from e2e.operator_chart import install_crd
from tests.operator.operator_process import OperatorProcess, User

NODES = [NodeSpec(name=name, gpus=4, gpu_type="H100") for name in ("gpu-0", "spare")]


@pytest.fixture(scope="session")
def stage() -> Iterator[Cluster]:
    """One node with four GPUs, and another that takes pods only where a test says so."""
    with Cluster.start(f"operator-{os.getpid()}", nodes=NODES) as cluster:
        cluster.kubectl("cordon", "spare")
        install_crd(cluster)
        yield cluster


@pytest.fixture(scope="session")
def operator_process(stage: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OperatorProcess]:
    """The operator that the tests share."""
    running = OperatorProcess(stage, tmp_path_factory.mktemp("operator") / "operator.log")
    yield running
    if running.process.poll() is None:
        running.stop()


@pytest.fixture
def operator(operator_process: OperatorProcess) -> Iterator[OperatorProcess]:
    """A running operator, started again if the last test killed it; what it logs is shown on failure."""
    if operator_process.process.poll() is not None:
        operator_process.restart()
    operator_process.wait_ready()
    before = len(operator_process.log)
    yield operator_process
    print(operator_process.log[before:])


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
