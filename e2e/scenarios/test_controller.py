"""The controller at work: jobs grow into idle GPUs and give way by themselves, and say why; real metrics and
training, and what goes wrong around them.
"""

import json
from typing import Any

import pytest

from e2e import operator_chart
from e2e.local import Cluster
from e2e.reach import Job, Reach
from e2e.scenarios.jobs import (
    SAMPLES,
    apply,
    condition,
    digits,
    events,
    lives,
    pods,
    running,
    script_job,
    status,
    step,
    trains_on,
)
from e2e.scenarios.processes import kill_operator
from e2e.story import priority_class

pytestmark = pytest.mark.cluster

LONG = 2000
RESIDENT = {"minGPUs": 6, "maxGPUs": 6, "gpusPerWorker": 3}
FAST, SLOW = "NVIDIA-A100-SIM", "NVIDIA-T4-SIM"


def decided(epochs: int = LONG, *, most: int = 2, **spec: Any) -> dict[str, Any]:
    """A job whose size the controller decides, anew after two seconds."""
    scaling = {
        "minGPUs": 1,
        "maxGPUs": most,
        "policy": "goodput",
        "cooldownSeconds": 2,
        **spec.pop("scaling", {}),
    }
    training = {"epochs": epochs, "batchSize": 256}
    workload = {"name": "digits-cnn", "parameters": {"width": "24"}}
    return digits(epochs=epochs, scaling=scaling, training=training, workload=workload, **spec)


def measured(job: Job) -> dict[str, float]:
    """Samples per second of one GPU of each type that the job was measured on."""
    return {one["gpuType"]: one["samplesPerSecond"] for one in status(job).get("gpuTypes", [])}


def patch(reach: Reach, name: str, change: dict[str, Any], *, namespace: str) -> None:
    reach.kubectl("patch", "-n", namespace, f"crj/{name}", "--type=merge", f"--patch={json.dumps(change)}")


def may_have(reach: Reach, name: str, most: int, *, namespace: str) -> None:
    """Raise a job's maximum: it has idle GPUs to grow into."""
    patch(reach, name, {"spec": {"scaling": {"maxGPUs": most}}}, namespace=namespace)


def test_a_job_grows_gives_way_to_a_more_important_one_and_grows_again(reach: Reach, namespace: str) -> None:
    # Somebody else has three quarters of the cluster: two GPUs are left, one on each node.
    resident = script_job("import time\ntime.sleep(3600)", scaling=RESIDENT)
    apply(reach, "resident", resident, namespace=namespace)
    reach.wait_job("resident", running, namespace=namespace)
    apply(reach, "steady", decided(), namespace=namespace)
    grown = reach.wait_job("steady", trains_on(2), namespace=namespace)
    first = status(grown)["lastDecision"]
    assert (first["policy"], first["reason"], first["applied"]) == ("goodput", "GrowthPays", True)
    assert first["expectedGain"] > 0

    reach.kubectl("apply", "-f", "-", stdin=json.dumps(priority_class("urgent")))
    urgent = decided(3, most=1, priorityClassName="urgent")
    apply(reach, "urgent", urgent, namespace=namespace)
    small = reach.wait_job("steady", trains_on(1), namespace=namespace)
    gave = status(small)["lastDecision"]
    assert gave["reason"] == "GivesWay"
    assert f"{namespace}/urgent (priority 1000) waits for 1 GPU" in gave["message"]
    done = reach.wait_finished("urgent", namespace=namespace)
    assert status(done)["phase"] == "Succeeded", status(done)

    again = reach.wait_job("steady", trains_on(2, beyond=step(small)), namespace=namespace)
    assert status(again)["restarts"] == 0
    said = "\n".join(events(reach, "steady", namespace=namespace))
    assert "Rescaled: 2 → 1 GPU while training went on: goodput: " in said
    assert "(priority 1000) waits for 1 GPU" in said
    reach.kubectl("delete", "crj", "-n", namespace, "steady", "resident")
    # The next test counts on their GPUs; a script that hears no SIGTERM keeps them for its grace period.
    reach.kubectl("delete", "pod", "-n", namespace, "--all", "--grace-period=1")


def test_jobs_grow_and_start_on_the_type_of_gpu_that_others_found_faster(
    reach: Reach, namespace: str
) -> None:
    # A job at rest has been on both types. What it found there is told: simulated GPUs depend on the machine.
    apply(reach, "knew", decided(suspend=True), namespace=namespace)
    reach.wait_job("knew", lambda job: status(job).get("phase") == "Suspended", namespace=namespace)
    known = [{"gpuType": FAST, "samplesPerSecond": 3000}, {"gpuType": SLOW, "samplesPerSecond": 1000}]
    told = json.dumps({"status": {"gpuTypes": known}})
    to_status = ("--subresource=status", "--type=merge", f"--patch={told}")
    reach.kubectl("patch", "-n", namespace, "crj/knew", *to_status)

    apply(reach, "grows", decided(most=1), namespace=namespace)
    reach.wait_job("grows", running, namespace=namespace)
    may_have(reach, "grows", 2, namespace=namespace)
    grown = reach.wait_job("grows", trains_on(2), namespace=namespace)
    last = status(grown)["lastDecision"]
    assert (last["reason"], last["gpuType"]) == ("GrowthPays", FAST)
    assert last["message"].endswith(f"new workers prefer {FAST}, 3.0 times as fast for it as {SLOW}")
    assert status(grown)["workers"][1]["gpuType"] == FAST
    own = status(grown)["workers"][0]["gpuType"]
    # It learns for itself as well.
    reach.wait_job("grows", lambda job: measured(job).get(own, 0) > 0, namespace=namespace)

    # Nobody has decided about this one when it starts.
    apply(reach, "starts", decided(most=1), namespace=namespace)
    started = reach.wait_job("starts", running, namespace=namespace)
    assert status(started)["workers"][0]["gpuType"] == FAST
    said = "\n".join(events(reach, "starts", namespace=namespace))
    assert f"Started: generation 1 with 1 GPU; new workers prefer {FAST}" in said
    reach.kubectl("delete", "crj", "-n", namespace, "knew", "grows", "starts")


def test_a_recommendation_a_pin_and_its_release(reach: Reach, namespace: str) -> None:
    apply(reach, "asked", decided(scaling={"mode": "Recommend"}), namespace=namespace)
    told = reach.wait_job("asked", lambda job: status(job).get("recommendedGPUs") == 2, namespace=namespace)
    assert status(told)["gpus"] == 1
    assert status(told)["lastDecision"]["applied"] is False
    assert any(
        event.startswith("Recommended: 1 → 2 GPUs: ") for event in events(reach, "asked", namespace=namespace)
    )

    patch(reach, "asked", {"spec": {"scaling": {"mode": "Auto"}}}, namespace=namespace)
    reach.wait_job("asked", trains_on(2), namespace=namespace)

    reach.kubectl("scale", "-n", namespace, "crj/asked", "--replicas=1")
    pinned = reach.wait_job("asked", trains_on(1), namespace=namespace)
    still = reach.wait_job("asked", trains_on(1, beyond=step(pinned) + 20), namespace=namespace)
    assert status(still)["lastDecision"]["reason"] == "SpecChanged"

    patch(reach, "asked", {"spec": {"scaling": {"gpus": None}}}, namespace=namespace)
    reach.wait_job("asked", trains_on(2), namespace=namespace)
    reach.kubectl("delete", "crj", "-n", namespace, "asked")


def test_without_prometheus_sizes_stay_and_training_goes_on(
    reach: Reach, cluster: Cluster, namespace: str
) -> None:
    apply(reach, "blind", decided(), namespace=namespace)
    before = reach.wait_job("blind", trains_on(2), namespace=namespace)
    said = events(reach, "blind", namespace=namespace)
    assert any(event.startswith("Started: generation 1 with 2 GPUs, of ") for event in said), said
    first = lives(reach, "blind", namespace=namespace)
    cluster.stop_component("prometheus")
    try:
        gone = reach.wait_job(
            "blind",
            lambda job: condition(job, "MetricsAvailable").get("status") == "False",
            namespace=namespace,
        )
        assert status(gone)["gpus"] == 2
        may_have(reach, "blind", 3, namespace=namespace)
        told = reach.wait_job(
            "blind",
            lambda job: condition(job, "Rescaling").get("reason") == "MetricsMissing",
            namespace=namespace,
        )
        assert status(told)["gpus"] == 2
    finally:
        cluster.restart_component("prometheus")
    after = reach.wait_job("blind", trains_on(3, beyond=step(before)), namespace=namespace)
    assert status(after)["restarts"] == 0
    assert lives(reach, "blind", namespace=namespace).items() >= first.items()
    reach.kubectl("delete", "crj", "-n", namespace, "blind")


def test_an_operator_killed_in_the_middle_of_a_move_changes_nothing_in_the_end(
    reach: Reach, namespace: str
) -> None:
    epochs = 20
    apply(reach, "orphan", decided(epochs, most=1), namespace=namespace)
    reach.wait_job("orphan", running, namespace=namespace)
    may_have(reach, "orphan", 2, namespace=namespace)
    reach.wait_job(
        "orphan", lambda job: condition(job, "Rescaling").get("status") == "True", namespace=namespace
    )
    kill_operator(reach, namespace=operator_chart.NAMESPACE)
    grown = reach.wait_job("orphan", trains_on(2), namespace=namespace)
    assert status(grown)["restarts"] == 0
    done = reach.wait_finished("orphan", namespace=namespace)
    assert status(done)["phase"] == "Succeeded", status(done)
    assert status(done)["result"]["samples"] == epochs * SAMPLES
    listed = pods(reach, "orphan", namespace=namespace)
    assert len({pod["metadata"]["labels"]["cra.dev/rank"] for pod in listed}) == len(listed)
