"""One connection and one namespace for all tests of the resource definition."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from kubernetes import client, config

from tests.crd.jobs import JobApi

if TYPE_CHECKING:
    from e2e.local import Cluster


@pytest.fixture(scope="session")
def connection(cluster: "Cluster") -> Iterator[client.ApiClient]:
    """A client of the official library that keeps its connection."""
    with config.new_client_from_config(str(cluster.kubeconfig)) as api:
        yield api


@pytest.fixture
def jobs(connection: client.ApiClient) -> JobApi:
    """Jobs of the default namespace, for what is only tried."""
    return JobApi(connection, "default")


@pytest.fixture
def stored_jobs(connection: client.ApiClient, namespace: str) -> JobApi:
    """Jobs of a namespace of its own, for what is stored."""
    return JobApi(connection, namespace)
