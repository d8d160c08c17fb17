"""Simulated GPUs through a real control plane: devices, quota, what the exporter says, the loss of a node."""

import json
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator

import pytest

from e2e.local import GPU_TYPES, Cluster
from tests.node.user import User, python

pytestmark = pytest.mark.cluster

_A100 = {"nvidia.com/gpu.product": GPU_TYPES["A100"].product}
_BUSY = """
    import os, time
    print(os.environ["NVIDIA_VISIBLE_DEVICES"])
    if os.fork() == 0:  # a child counts as much as its parent
        while True:
            pass
    while True:
        pass
"""
# What the container's processes have burnt is read inside of it, from beside them.
_BURNT = """
    import os, time
    def burnt():
        total = 0
        for pid in filter(str.isdigit, os.listdir("/proc")):
            fields = open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()
            total += int(fields[11]) + int(fields[12])
        return total / os.sysconf("SC_CLK_TCK")
    if os.fork() == 0:
        while True:
            pass
    time.sleep(0.5)
    used, start = burnt(), time.monotonic()
    time.sleep(4)
    print((burnt() - used) / (time.monotonic() - start))
"""


def _gpu(count: int) -> dict[str, object]:
    return {"resources": {"limits": {"nvidia.com/gpu": count}}}


def _query(cluster: Cluster, promql: str) -> list[dict[str, object]]:
    url = f"{cluster.prometheus_url}/api/v1/query?{urllib.parse.urlencode({'query': promql})}"
    with urllib.request.urlopen(url, timeout=5) as answer:
        result: list[dict[str, object]] = json.load(answer)["data"]["result"]
    return result


def test_a_gpu_is_a_share_of_a_core_for_all_processes_of_the_pod(user: User) -> None:
    user.run("one", python(_BURNT), container=_gpu(1), nodeSelector=_A100, terminationGracePeriodSeconds=1)
    share = GPU_TYPES["A100"].core_share
    # Never more, but less where the machine has too little to give to all who want it.
    assert 0.5 * share < float(user.output("one")) < 1.1 * share


def test_the_exporter_tells_who_holds_which_gpu_and_how_busy_it_is(user: User) -> None:
    user.run("busy", python(_BUSY), container=_gpu(1), nodeSelector=_A100, terminationGracePeriodSeconds=1)
    user.run("idle", ["sleep", "600"], container=_gpu(1), nodeSelector=_A100, terminationGracePeriodSeconds=1)
    for name in ("busy", "idle"):
        user.wait(f"pod/{name}", ".status.containerStatuses[0].ready", "true")
    pods = f'namespace="{user.namespace}"'
    promql = f"min_over_time(DCGM_FI_DEV_GPU_UTIL{{{pods}}}[2s]) and DCGM_FI_DEV_FB_USED{{{pods}}} > 0"
    deadline = time.monotonic() + 20
    seen: dict[str, float] = {}
    devices: dict[str, str] = {}
    while time.monotonic() < deadline and not seen.get("busy", 0) > 60:
        time.sleep(0.5)
        for sample in _query(user.cluster, promql):
            labels, value = sample["metric"], sample["value"]
            assert isinstance(labels, dict)
            assert isinstance(value, list)
            assert (labels["Hostname"], labels["container"]) == ("gpu-a-0", "main")
            assert labels["modelName"] == GPU_TYPES["A100"].product
            seen[labels["pod"]] = float(value[1])
            devices[labels["pod"]] = labels["UUID"]
    assert seen["busy"] > 60
    assert seen["idle"] < 10
    assert user.kubectl("logs", "busy").strip() == devices["busy"] != devices["idle"]
    free = _query(user.cluster, 'count(DCGM_FI_DEV_GPU_UTIL{Hostname="gpu-a-0",pod=""})')
    assert free[0]["value"][1] == "2"  # type: ignore[index]


def test_gpus_beyond_what_is_free_wait_for_those_that_end(user: User) -> None:
    user.run(
        "first", ["sleep", "600"], container=_gpu(4), nodeSelector=_A100, terminationGracePeriodSeconds=1
    )
    user.wait("pod/first", ".status.containerStatuses[0].ready", "true")
    user.run("second", ["true"], container=_gpu(1), nodeSelector=_A100, terminationGracePeriodSeconds=1)
    user.wait("pod/second", '.status.conditions[?(@.type=="PodScheduled")].reason', "Unschedulable")
    user.kubectl("delete", "pod", "first", "--grace-period=1")
    user.output("second")


@pytest.fixture
def lost_node(cluster: Cluster) -> Iterator[str]:
    """A node to lose; found again in the end."""
    yield "gpu-b-0"
    cluster.kubectl("annotate", "node", "gpu-b-0", "sim.cra.dev/lost-")
    cluster.kubectl("wait", "node/gpu-b-0", "--for=condition=Ready", "--timeout=60s")


def test_pods_of_an_agent_before_this_one_have_failed(user: User, lost_node: str) -> None:
    user.kubectl("annotate", "node", lost_node, "sim.cra.dev/lost=true")
    user.run("orphan", ["sleep", "600"], nodeName=lost_node)
    status = '{"status": {"phase": "Running", "startTime": "2030-01-01T00:00:00Z"}}'
    user.kubectl("patch", "pod", "orphan", "--subresource=status", f"--patch={status}")
    user.kubectl("annotate", "node", lost_node, "sim.cra.dev/lost-")
    user.wait("pod/orphan", ".status.reason", "NodeAgentRestarted")
    assert user.get("pod/orphan")["status"]["phase"] == "Failed"


def test_a_lost_node_falls_silent_until_it_is_found(user: User, lost_node: str) -> None:
    spec = {"nodeSelector": {"kubernetes.io/hostname": lost_node}}
    user.run("victim", ["sleep", "600"], **spec)
    user.wait("pod/victim", ".status.containerStatuses[0].ready", "true")
    user.kubectl("annotate", "node", lost_node, "sim.cra.dev/lost=true")
    time.sleep(1.5)
    assert user.get("pod/victim")["status"]["phase"] == "Running"
    user.kubectl("delete", "pod", "victim", "--wait=false")
    time.sleep(1.5)
    assert "deletionTimestamp" in user.get("pod/victim")["metadata"]
    user.kubectl("annotate", "node", lost_node, "sim.cra.dev/lost-")
    user.kubectl("wait", "--for=delete", "pod/victim", "--timeout=20s")
