"""What the controller knows of a job is what Prometheus has scraped of it."""

import json
import urllib.parse
import urllib.request
from typing import TYPE_CHECKING, Any

import pytest

from e2e.reach import Job, Reach
from e2e.scenarios.jobs import apply, digits, status

if TYPE_CHECKING:
    from e2e.local import Cluster

pytestmark = pytest.mark.cluster


def series(cluster: "Cluster", selector: str) -> list[float]:
    """All values of the last minutes."""
    query = urllib.parse.urlencode({"query": f"{selector}[5m]"})
    with urllib.request.urlopen(f"{cluster.prometheus_url}/api/v1/query?{query}", timeout=10) as answer:
        found = json.load(answer)["data"]["result"]
    return [float(value) for one in found for _, value in one["values"]]


def measured(job: Job) -> dict[int, dict[str, Any]]:
    """Measured speeds by number of GPUs."""
    return {speed["gpus"]: speed for speed in status(job).get("speeds", [])}


def rewarded_on(gpus: int) -> Any:
    """Whether the job's reward is that of so many GPUs."""

    def told(job: Job) -> bool:
        return gpus in measured(job) and "utilization" in status(job) and len(status(job)["workers"]) == gpus

    return told


def test_speed_and_reward_are_those_of_the_raw_series(
    cluster: "Cluster", reach: Reach, namespace: str
) -> None:
    objective = {"alpha": 2, "beta": 0.5}
    apply(reach, "seen", digits(epochs=400, objective=objective), namespace=namespace)
    reach.wait_job("seen", rewarded_on(1), namespace=namespace)
    reach.kubectl("scale", "-n", namespace, "crj/seen", "--replicas=2")
    now = status(reach.wait_job("seen", rewarded_on(2), namespace=namespace))

    rate = now["progress"]["samplesPerSecond"]
    labels = f'{{namespace="{namespace}",pod="seen-1-0"}}'
    assert rate in series(cluster, f"cra_trainer_samples_per_second{labels}")
    assert now["batchSize"] in series(cluster, f"cra_trainer_batch_size{labels}")
    alone = measured({"status": now})[1]
    assert (alone["nodes"], alone["batchSize"]) == (1, 64)
    faster = rate / 64 * alone["stepSeconds"]
    assert now["reward"] == pytest.approx(now["utilization"] * (2 * faster + 0.5 * faster / 2), abs=2e-3)

    condition = next(c for c in now["conditions"] if c["type"] == "MetricsAvailable")
    assert (condition["status"], condition["reason"]) == ("True", "Fresh")
    reach.kubectl("delete", "-n", namespace, "crj/seen", "--wait=false")
