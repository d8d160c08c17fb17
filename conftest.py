"""What every test may use: one embedded cluster for the session, and a namespace of its own for each test."""

import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from e2e.local import Cluster

REPOSITORY = Path(__file__).resolve().parent
CRD_MANIFEST = REPOSITORY / "crds" / "cra.dev_cratrainingjobs.yaml"

# How long an example takes says more about the machine than about the code.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


@pytest.fixture(scope="session")
def cluster() -> Iterator["Cluster"]:
    """A running embedded cluster with the CRATrainingJob CRD established."""
    from e2e.local import Cluster

    with Cluster.start(f"test-{os.getpid()}") as running:
        running.kubectl("apply", "--server-side", "-f", str(CRD_MANIFEST))
        # NB: `kubectl wait --for=condition` fails on an object that has no conditions at all yet.
        for met in ("jsonpath={.status.acceptedNames.kind}=CRATrainingJob", "condition=Established"):
            running.kubectl("wait", f"--for={met}", "crd/cratrainingjobs.cra.dev", "--timeout=30s")
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
