"""What the tests on pods share."""

import pytest

from e2e.local import Cluster
from tests.node.user import User


@pytest.fixture
def user(cluster: Cluster, namespace: str) -> User:
    """A user with a fresh namespace in which pods may be created."""
    # Pods are refused until the controller manager has made it.
    cluster.kubectl("wait", "--for=create", f"--namespace={namespace}", "serviceaccount/default")
    return User(cluster, namespace)
