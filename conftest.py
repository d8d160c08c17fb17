"""What every test may use: one embedded cluster for the session, and a namespace of its own for each test."""

import os
import uuid
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from e2e.local import Cluster


# How long an example takes says more about the machine than about the code. A test that goes red shall do so
# by a change and not by luck; `pytest --hypothesis-profile=explore` looks for what is not known yet.
settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.register_profile("explore", deadline=None, max_examples=2000)
settings.load_profile("repeatable")


@pytest.fixture(scope="session")
def cluster() -> Iterator["Cluster"]:
    """A running embedded cluster with the CRATrainingJob CRD established."""
    from e2e.local import Cluster
    from e2e.operator_chart import install_crd

    with Cluster.start(f"test-{os.getpid()}") as running:
        install_crd(running)
        yield running


@pytest.fixture
def namespace(cluster: "Cluster") -> Iterator[str]:
    """The name of a fresh namespace; deleted in the background after the test."""
    name = f"t-{uuid.uuid4().hex[:8]}"
    cluster.kubectl("create", "namespace", name)
    # Without its service account a namespace refuses pods.
    cluster.kubectl("wait", "--for=create", "-n", name, "serviceaccount/default", "--timeout=30s")
    yield name
    cluster.kubectl("delete", "namespace", name, "--wait=false")
