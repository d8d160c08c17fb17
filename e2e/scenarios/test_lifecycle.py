"""What a user does to a job while it trains: scale, suspend, resume; and training without the operator."""

import pytest

from e2e import operator_chart
from e2e.reach import Reach
from e2e.scenarios.jobs import apply, condition, digits, events, pods, running, status, step

pytestmark = pytest.mark.cluster

LONG = 2000
ENOUGH = 15


def test_kubectl_scale_of_a_job_that_is_not_elastic_goes_on_from_the_step_it_had(
    reach: Reach, namespace: str
) -> None:
    spec = digits(epochs=LONG, scaling={"minGPUs": 1, "maxGPUs": 4, "elastic": False})
    apply(reach, "digits", spec, namespace=namespace)
    before = reach.wait_job("digits", lambda job: step(job) >= 10, namespace=namespace)
    reach.kubectl("scale", "-n", namespace, "crj/digits", "--replicas=2")
    during = reach.wait_job(
        "digits", lambda job: condition(job, "Rescaling").get("status") == "True", namespace=namespace
    )
    assert "1" in condition(during, "Rescaling")["message"]
    assert "2" in condition(during, "Rescaling")["message"]
    after = reach.wait_job(
        "digits",
        lambda job: running(job) and job["status"]["gpus"] == 2 and step(job) > step(before),
        namespace=namespace,
    )
    assert after["status"]["rescales"] == 1
    assert after["status"]["restarts"] == 0
    assert condition(after, "Rescaling")["status"] == "False"
    log = reach.kubectl("logs", "-n", namespace, f"digits-{after['status']['generation']}-0")
    assert "checkpoint" in log


def test_a_size_that_does_not_fit_leaves_the_job_as_it_is(reach: Reach, namespace: str) -> None:
    spec = digits(epochs=LONG, scaling={"minGPUs": 1, "maxGPUs": 64})
    apply(reach, "digits", spec, namespace=namespace)
    reach.wait_job("digits", running, namespace=namespace)
    reach.kubectl("scale", "-n", namespace, "crj/digits", "--replicas=64")
    # It has one already.
    job = reach.wait_job("digits", lambda job: "63" in status(job).get("message", ""), namespace=namespace)
    assert running(job)
    assert job["status"]["gpus"] == 1


def test_suspend_gives_the_gpus_back_and_resume_goes_on(reach: Reach, namespace: str) -> None:
    apply(reach, "digits", digits(epochs=ENOUGH), namespace=namespace)
    before = reach.wait_job("digits", lambda job: step(job) >= 10, namespace=namespace)
    reach.kubectl("patch", "-n", namespace, "crj/digits", "--type=merge", "-p", '{"spec":{"suspend":true}}')
    suspended = reach.wait_job(
        "digits", lambda job: status(job).get("phase") == "Suspended", namespace=namespace
    )
    assert suspended["status"]["gpus"] == 0
    assert pods(reach, "digits", namespace=namespace) == []
    reach.kubectl("patch", "-n", namespace, "crj/digits", "--type=merge", "-p", '{"spec":{"suspend":false}}')
    done = reach.wait_finished("digits", namespace=namespace)
    assert done["status"]["phase"] == "Succeeded", done["status"]
    assert done["status"]["restarts"] == 0
    # The result counts the steps of the whole training: none was lost or done twice.
    assert done["status"]["result"]["steps"] == done["status"]["progress"]["step"] > step(before)


def test_training_goes_on_while_the_operator_is_killed(reach: Reach, namespace: str) -> None:
    apply(reach, "digits", digits(epochs=ENOUGH), namespace=namespace)
    reach.wait_job("digits", running, namespace=namespace)
    before = {pod["metadata"]["uid"] for pod in pods(reach, "digits", namespace=namespace)}
    reach.kubectl(
        "delete", "pod", "-n", operator_chart.NAMESPACE, "-l", "app.kubernetes.io/name=cra-operator",
        "--force", "--grace-period=0",
    )  # fmt: skip
    done = reach.wait_finished("digits", namespace=namespace)
    assert done["status"]["phase"] == "Succeeded", done["status"]
    assert done["status"]["restarts"] == 0
    assert {pod["metadata"]["uid"] for pod in pods(reach, "digits", namespace=namespace)} == before


def test_settings_without_effect_are_named(reach: Reach, namespace: str) -> None:
    spec = digits(epochs=1, scaling={"maxGPUs": 2, "gpusPerWorker": "1-2"}, suspend=True)
    apply(reach, "digits", spec, namespace=namespace)
    reach.wait_job("digits", lambda job: status(job).get("phase") == "Suspended", namespace=namespace)
    said = [
        event for event in events(reach, "digits", namespace=namespace) if event.startswith("NotEffective")
    ]
    assert len(said) == 1
    assert "scaling.gpusPerWorker" in said[0]
