"""Two jobs and the controller: one grows into idle GPUs, gives way to an urgent one, and grows again.

Nobody sets a size until, at the end, somebody does by `kubectl scale`. Every move is told as it happens, with
the reason that the controller gives.
"""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import yaml
from kubernetes import client, watch
from urllib3.exceptions import ProtocolError

from e2e.local import NodeSpec
from e2e.reach import Job, Reach

NODES = (
    NodeSpec(name="gpu-a-0", gpus=2, gpu_type="A100"),
    NodeSpec(name="gpu-b-0", gpus=2, gpu_type="T4"),
    NodeSpec(name="cpu-0"),
)
"""Few enough GPUs that two cores carry them all."""
SETTINGS = (
    "controller.policy=goodput",
    "controller.warmUpSeconds=2",
    "controller.hysteresisPercent=20",  # the jobs and the control plane disturb each other on a small machine
    "observe.intervalSeconds=1",
)
STEADY, URGENT = "steady", "urgent"
TOLD = frozenset(
    {"Started", "WaitingForGPUs", "Rescaling", "Rescaled", "RolledBack", "Succeeded", "Suspended"}
)


def job(name: str, *, epochs: int, least: int, most: int, **spec: Any) -> dict[str, Any]:
    """A job whose size is decided by the policy `goodput`, again after two seconds where need be."""
    return {
        "apiVersion": "cra.dev/v1alpha1",
        "kind": "CRATrainingJob",
        "metadata": {"name": name},
        "spec": {
            "workload": {"name": "digits-cnn", "parameters": {"width": "24"}},
            "scaling": {"minGPUs": least, "maxGPUs": most, "policy": "goodput", "cooldownSeconds": 2},
            "training": {"epochs": epochs, "batchSize": 256},
            **spec,
        },
    }


def priority_class(name: str) -> dict[str, Any]:
    """A class above the default priority, whose pods wait until the operator has made room."""
    return {
        "apiVersion": "scheduling.k8s.io/v1",
        "kind": "PriorityClass",
        "metadata": {"name": name},
        "value": 1000,
        "preemptionPolicy": "Never",
    }


def manifests(gpus: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The steady job, and the urgent one with its priority class, for a cluster of so many GPUs."""
    volume = {"intervalSeconds": 10, "volume": {"size": "1Gi"}}
    steady = job(STEADY, epochs=2000, least=max(1, gpus // 4), most=gpus, checkpoint=volume)
    half = max(1, gpus // 2)
    urgent = job(URGENT, epochs=4, least=half, most=half, priorityClassName=URGENT)
    return [steady], [priority_class(URGENT), urgent]


def run(reach: Reach, say: Callable[[str], None]) -> Job:
    """Play the story; returns the urgent job, which has finished; the steady one still trains.

    Raises:
        NotReached: A job did not do its part.
    """
    gpus = _gpus(reach)
    steady, urgent = manifests(gpus)
    with _telling(reach, say):
        low, high = (steady[0]["spec"]["scaling"][bound] for bound in ("minGPUs", "maxGPUs"))
        say(f"{gpus} GPUs are idle; kubectl apply: {STEADY}, of {low} to {high} GPUs")
        _apply(reach, steady)
        reach.wait_job(STEADY, lambda seen: _trains_on(seen, gpus))
        say(f"kubectl apply: {URGENT}, of {urgent[1]['spec']['scaling']['minGPUs']} GPUs, with priority 1000")
        _apply(reach, urgent)
        done = reach.wait_finished(URGENT)
        reach.wait_job(STEADY, lambda seen: _trains_on(seen, gpus))
        for size in (low, high, max(1, gpus // 2)):
            say(f"kubectl scale crj/{STEADY} --replicas={size}")
            reach.kubectl("scale", f"crj/{STEADY}", f"--replicas={size}")
            reach.wait_job(STEADY, partial(_trains_on, gpus=size))
    return done


def end(reach: Reach) -> None:
    """Suspend the steady job: it saves a checkpoint and gives its GPUs back."""
    reach.kubectl("patch", f"crj/{STEADY}", "--type=merge", '--patch={"spec":{"suspend":true}}')
    reach.wait_job(STEADY, lambda seen: seen.get("status", {}).get("phase") == "Suspended")


def describe_moves(reach: Reach) -> str:
    """Why the steady job had which size, as its status tells."""
    status = json.loads(reach.kubectl("get", "crj", STEADY, "-o", "json"))["status"]
    lines = ["", f"kubectl describe crj {STEADY} says of its size:", ""]
    for decision in status["decisions"]:
        lines.append(f"  {decision['from']} → {decision['to']}  {decision['reason']}: {decision['message']}")
    lines += ["", f"  {status['rescales']} changes of size, {status['restarts']} restarts"]
    return "\n".join(lines)


def _apply(reach: Reach, objects: list[dict[str, Any]]) -> None:
    reach.kubectl("apply", "-f", "-", stdin=yaml.safe_dump_all(objects))


def _gpus(reach: Reach) -> int:
    nodes = json.loads(reach.kubectl("get", "nodes", "-o", "json"))["items"]
    return sum(int(node["status"]["allocatable"].get("nvidia.com/gpu", 0)) for node in nodes)


def _trains_on(seen: Job, gpus: int) -> bool:
    status = seen.get("status", {})
    changes = any(c["type"] == "Rescaling" and c["status"] == "True" for c in status.get("conditions", []))
    return bool(status.get("phase") == "Running" and status.get("gpus") == gpus and not changes)


@contextmanager
def _telling(reach: Reach, say: Callable[[str], None]) -> Iterator[None]:
    """Tell the jobs' events as they come."""
    stream = watch.Watch()

    def tell() -> None:
        events = client.CustomObjectsApi(reach.api()).list_namespaced_custom_object
        with suppress(ProtocolError):  # the cluster may end before the stream does
            for event in stream.stream(events, "events.k8s.io", "v1", "default", "events"):
                what = event["object"]
                if what["regarding"]["kind"] == "CRATrainingJob" and what["reason"] in TOLD:
                    say(f"  {what['regarding']['name']:<7} {what['reason']}: {what['note']}")

    teller = threading.Thread(target=tell, daemon=True)
    teller.start()
    try:
        yield
    finally:
        stream.stop()
