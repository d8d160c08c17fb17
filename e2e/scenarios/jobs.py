"""Jobs that the scenarios run, and looking at what became of them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from e2e.reach import Job, Reach

SAMPLES = 1437  # of the digits' training set


def digits(*, epochs: int, **spec: Any) -> dict[str, Any]:
    """The spec of a job on the digits, with a small network: about half a second an epoch on one slow GPU."""
    return {
        "workload": {"name": "digits-cnn", "parameters": {"width": "8"}},
        "scaling": {"minGPUs": 1, "maxGPUs": 4},
        "training": {"epochs": epochs},
        **spec,
    }


def apply(reach: Reach, name: str, spec: dict[str, Any], *, namespace: str) -> None:
    """`kubectl apply` a job."""
    job = {
        "apiVersion": "cra.dev/v1alpha1",
        "kind": "CRATrainingJob",
        "metadata": {"name": name},
        "spec": spec,
    }
    reach.kubectl("apply", "-n", namespace, "-f", "-", stdin=yaml.safe_dump(job))


def script_job(source: str, *, gpus: int = 1, **spec: Any) -> dict[str, Any]:
    """The spec of a job whose trainer runs this Python source."""
    trainer = {"name": "trainer", "image": "cra-trainer", "command": ["python", "-u", "-c", source]}
    return {
        "template": {"spec": {"containers": [trainer]}},
        "scaling": {"minGPUs": gpus, "maxGPUs": gpus},
        **spec,
    }


def status(job: Job) -> dict[str, Any]:
    """The job's status, empty before the operator has seen it."""
    return dict(job.get("status", {}))


def condition(job: Job, kind: str) -> dict[str, Any]:
    """The job's condition of this type, empty when it has none."""
    return next((c for c in status(job).get("conditions", []) if c["type"] == kind), {})


def running(job: Job) -> bool:
    """Whether all ranks train."""
    return condition(job, "Running").get("status") == "True"


def step(job: Job) -> int:
    """How many optimizer steps are known to be done."""
    return int(status(job).get("progress", {}).get("step", 0))


def trains_on(gpus: int, *, beyond: int = 0) -> Callable[[Job], bool]:
    """Whether a job trains on so many GPUs, changes no more and is further than that step."""

    def settled(job: Job) -> bool:
        changes = condition(job, "Rescaling").get("status") == "True"
        return running(job) and not changes and status(job).get("gpus") == gpus and step(job) > beyond

    return settled


def pods(reach: Reach, job: str, *, namespace: str) -> list[dict[str, Any]]:
    """The job's pods."""
    listed = reach.kubectl("get", "pods", "-n", namespace, "-l", f"cra.dev/job={job}", "-o", "json")
    return list(json.loads(listed)["items"])


def lives(reach: Reach, job: str, *, namespace: str) -> dict[str, tuple[str, str, int]]:
    """What would change if a pod were replaced or its trainer restarted: uid, start, restarts."""
    found = {}
    for pod in pods(reach, job, namespace=namespace):
        state = pod["status"]["containerStatuses"][0] if pod["status"].get("containerStatuses") else {}
        found[pod["metadata"]["name"]] = (
            pod["metadata"]["uid"],
            pod["status"].get("startTime", ""),
            state.get("restartCount", 0),
        )
    return found


def checkpoint_volume(reach: Reach, job: str, *, namespace: str) -> Path:
    """The directory behind the claim that holds the job's checkpoints."""
    claim = json.loads(reach.kubectl("get", "pvc", "-n", namespace, f"{job}-checkpoint", "-o", "json"))
    volume = json.loads(reach.kubectl("get", "pv", claim["spec"]["volumeName"], "-o", "json"))
    return Path(volume["spec"]["hostPath"]["path"])


def events(reach: Reach, job: str, *, namespace: str) -> list[str]:
    """The job's events, each as `Reason: message`."""
    listed = reach.kubectl(
        "get", "events", "-n", namespace, "--field-selector", f"involvedObject.name={job}", "-o", "json"
    )
    return [f"{event['reason']}: {event['message']}" for event in json.loads(listed)["items"]]
