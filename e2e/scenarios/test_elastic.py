"""Pods join and leave a training that goes on: no other restarts, and each sample counts once an epoch."""

import pytest

from e2e.reach import Job, Reach
from e2e.scenarios.jobs import (
    SAMPLES,
    apply,
    condition,
    digits,
    events,
    lives,
    running,
    script_job,
    status,
    step,
    trains_on,
)
from e2e.scenarios.processes import kill_trainer

pytestmark = pytest.mark.cluster


def said(reach: Reach, name: str, *, namespace: str) -> str:
    """All events of the job in one text."""
    return "\n".join(events(reach, name, namespace=namespace))


def test_a_job_grows_and_shrinks_while_it_trains(reach: Reach, namespace: str) -> None:
    epochs = 40
    apply(reach, "digits", digits(epochs=epochs), namespace=namespace)
    before = reach.wait_job("digits", lambda job: step(job) >= 10, namespace=namespace)
    first = lives(reach, "digits", namespace=namespace)
    assert list(first) == ["digits-1-0"]

    reach.kubectl("scale", "-n", namespace, "crj/digits", "--replicas=3")
    grown = reach.wait_job("digits", trains_on(3, beyond=step(before)), namespace=namespace)
    second = lives(reach, "digits", namespace=namespace)
    assert len(second) == 3
    assert second.items() >= first.items()

    reach.kubectl("scale", "-n", namespace, "crj/digits", "--replicas=2")
    reach.wait_job("digits", trains_on(2, beyond=step(grown)), namespace=namespace)
    third = lives(reach, "digits", namespace=namespace)
    assert third.items() >= first.items()

    done = reach.wait_finished("digits", namespace=namespace)
    assert done["status"]["phase"] == "Succeeded", done["status"]
    assert done["status"]["restarts"] == 0
    assert done["status"]["rescales"] == 2
    assert done["status"]["result"]["samples"] == epochs * SAMPLES
    log = reach.kubectl("logs", "-n", namespace, "digits-1-0")
    assert "resized from 1 to 3 ranks" in log
    assert "resized from 3 to 2 ranks" in log


def test_a_killed_worker_is_replaced_and_nobody_else(reach: Reach, namespace: str) -> None:
    epochs = 60
    spec = digits(epochs=epochs, scaling={"minGPUs": 3, "maxGPUs": 3})
    apply(reach, "killed", spec, namespace=namespace)
    before = reach.wait_job("killed", lambda job: step(job) >= 10, namespace=namespace)
    first = lives(reach, "killed", namespace=namespace)
    kill_trainer("killed-1-1", namespace=namespace)

    reach.wait_job(
        "killed",
        lambda job: trains_on(3, beyond=step(before))(job) and status(job)["generation"] == 2,
        namespace=namespace,
    )
    second = lives(reach, "killed", namespace=namespace)
    assert second["killed-1-0"] == first["killed-1-0"]
    assert second["killed-1-2"] == first["killed-1-2"]
    assert "killed-2-1" in second
    assert "killed-1-1" in said(reach, "killed", namespace=namespace)

    done = reach.wait_finished("killed", namespace=namespace)
    assert done["status"]["phase"] == "Succeeded", done["status"]
    assert done["status"]["result"]["samples"] == epochs * SAMPLES


def test_a_growth_that_no_node_takes_is_given_up(reach: Reach, namespace: str) -> None:
    """There are GPUs enough, but this job wants each pod on a node of its own, and two nodes have GPUs."""
    spec = script_job("", training={"epochs": 2000})
    trainer = spec["template"]["spec"]["containers"][0]
    trainer["command"] = ["python", "-m", "cra_trainer.run", "-m", "cra_trainer.workloads.digits_cnn"]
    trainer["readinessProbe"] = {"httpGet": {"path": "/readyz", "port": "metrics"}, "periodSeconds": 1}
    spec["template"]["spec"]["affinity"] = {
        "podAntiAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": [
                {
                    "topologyKey": "kubernetes.io/hostname",
                    "labelSelector": {"matchLabels": {"cra.dev/job": "apart"}},
                }
            ]
        }
    }
    spec["scaling"] = {"minGPUs": 2, "maxGPUs": 4, "elastic": True}
    apply(reach, "apart", spec, namespace=namespace)
    before = reach.wait_job("apart", lambda job: step(job) >= 5, namespace=namespace)
    first = lives(reach, "apart", namespace=namespace)

    change = '{"spec": {"startupDeadlineSeconds": 5}}'
    reach.kubectl("patch", "-n", namespace, "crj/apart", "--type=merge", f"--patch={change}")
    reach.kubectl("scale", "-n", namespace, "crj/apart", "--replicas=3")
    reach.wait_job(
        "apart", lambda job: condition(job, "Rescaling").get("status") == "True", namespace=namespace
    )

    def given_up(job: Job) -> bool:
        return condition(job, "Rescaling").get("status") == "False" and trains_on(2, beyond=step(before))(job)

    after = reach.wait_job("apart", given_up, namespace=namespace)
    assert "3" in condition(after, "Rescaling")["message"], condition(after, "Rescaling")
    assert lives(reach, "apart", namespace=namespace) == first
    assert after["status"]["restarts"] == 0
    reach.kubectl("delete", "crj", "-n", namespace, "apart")


def test_a_script_without_a_session_is_stopped_and_started_anew(reach: Reach, namespace: str) -> None:
    spec = script_job("import time\ntime.sleep(600)", scaling={"minGPUs": 1, "maxGPUs": 2})
    spec["template"]["spec"]["terminationGracePeriodSeconds"] = 1
    apply(reach, "plain", spec, namespace=namespace)
    reach.wait_job("plain", running, namespace=namespace)
    first = lives(reach, "plain", namespace=namespace)
    reach.kubectl("scale", "-n", namespace, "crj/plain", "--replicas=2")
    reach.wait_job("plain", lambda job: running(job) and status(job)["gpus"] == 2, namespace=namespace)
    second = lives(reach, "plain", namespace=namespace)
    assert len(second) == 2
    assert not first.keys() & second.keys()
    text = said(reach, "plain", namespace=namespace)
    assert "by way of a checkpoint and a restart" in text
    reach.kubectl("delete", "crj", "-n", namespace, "plain")
