"""The scenarios' world: the embedded cluster with the operator installed from its chart."""

import pytest

from e2e import operator_chart
from e2e.local import Cluster
from e2e.reach import Reach


@pytest.fixture(scope="session")
def reach(cluster: Cluster) -> Reach:
    """The cluster with the operator running in it; the CRD is there already, so the chart leaves it alone."""
    reached = Reach.of(cluster)
    operator_chart.install(reached, "crds.enabled=false", "observe.intervalSeconds=1")
    return reached
