"""What goes wrong, done to real processes and files: the job says what and where, and loses nothing."""

import pytest

from e2e.reach import Reach
from e2e.scenarios.jobs import (
    apply,
    checkpoint_volume,
    condition,
    digits,
    events,
    running,
    script_job,
    status,
    step,
)
from e2e.scenarios.processes import kill_trainer

pytestmark = pytest.mark.cluster


def test_a_wrong_image_is_named_and_does_not_last_for_ever(reach: Reach, namespace: str) -> None:
    spec = script_job("pass", startupDeadlineSeconds=8, backoffLimit=0)
    spec["template"]["spec"]["containers"][0]["image"] = "no-such-image:1"
    apply(reach, "typo", spec, namespace=namespace)
    seen = reach.wait_job(
        "typo",
        lambda job: "ImagePull" in status(job).get("display", {}).get("phase", ""),
        namespace=namespace,
    )
    assert "no-such-image:1" in seen["status"]["message"]
    assert condition(seen, "Degraded")["status"] == "True"
    done = reach.wait_finished("typo", namespace=namespace)
    assert done["status"]["phase"] == "Failed"
    assert "no-such-image:1" in condition(done, "Failed")["message"]
    assert any("no-such-image:1" in event for event in events(reach, "typo", namespace=namespace))


def test_a_script_that_raises_is_retried_and_then_named(reach: Reach, namespace: str) -> None:
    source = "import cra_trainer\nsession = cra_trainer.init()\nraise ValueError('learning rate fell over')\n"
    apply(reach, "raises", script_job(source, backoffLimit=1), namespace=namespace)
    done = reach.wait_finished("raises", namespace=namespace)
    assert status(done)["phase"] == "Failed"
    assert status(done)["display"]["phase"] == "Failed/ScriptError"
    assert status(done)["restarts"] == 1
    assert "ValueError: learning rate fell over" in condition(done, "Failed")["message"]
    assert status(done)["result"]["error"]["rank"] == 0


def test_a_killed_leader_costs_a_restart_from_the_checkpoint(reach: Reach, namespace: str) -> None:
    spec = digits(epochs=12, scaling={"minGPUs": 2, "maxGPUs": 2}, checkpoint={"intervalSeconds": 1})
    apply(reach, "killed", spec, namespace=namespace)
    reach.wait_job(
        "killed",
        lambda job: status(job).get("lastCheckpoint", {}).get("step", 0) > 0,
        namespace=namespace,
    )
    kill_trainer("killed-1-0", namespace=namespace)
    restarted = reach.wait_job("killed", lambda job: status(job).get("restarts") == 1, namespace=namespace)
    assert any("killed-1-0" in event for event in events(reach, "killed", namespace=namespace))
    done = reach.wait_finished("killed", namespace=namespace)
    assert done["status"]["phase"] == "Succeeded", done["status"]
    assert step(done) >= step(restarted)
    assert "step" in reach.kubectl("logs", "-n", namespace, "killed-2-0")


def test_a_place_that_refuses_checkpoints_costs_nothing_else(reach: Reach, namespace: str) -> None:
    # On any machine nothing can be written below a device.
    refused = {"url": "file:///dev/null/bucket", "intervalSeconds": 1}
    apply(reach, "refused", digits(epochs=20, checkpoint=refused), namespace=namespace)
    seen = reach.wait_job(
        "refused",
        lambda job: condition(job, "Degraded").get("reason") == "CheckpointFailed",
        namespace=namespace,
    )
    assert condition(seen, "Degraded")["status"] == "True"
    done = reach.wait_finished("refused", namespace=namespace)
    assert status(done)["phase"] == "Succeeded"
    assert status(done)["result"]["metrics"]["accuracy"] > 0.5
    assert condition(done, "Degraded")["reason"] == "CheckpointFailed"
    uid = done["metadata"]["uid"]
    assert f"/dev/null/bucket/{namespace}/refused/{uid}" in condition(done, "Degraded")["message"]
    assert any(
        event.startswith("CheckpointFailed: ") for event in events(reach, "refused", namespace=namespace)
    )
    assert "refused-checkpoint" not in reach.kubectl("get", "pvc", "-n", namespace)


def test_a_checkpoint_cut_short_is_skipped_for_the_one_before(reach: Reach, namespace: str) -> None:
    spec = digits(epochs=2000, checkpoint={"intervalSeconds": 1})
    apply(reach, "cut", spec, namespace=namespace)
    reach.wait_job("cut", lambda job: step(job) >= 20, namespace=namespace)
    reach.kubectl("patch", "-n", namespace, "crj/cut", "--type=merge", "-p", '{"spec":{"suspend":true}}')
    reach.wait_job("cut", lambda job: status(job).get("phase") == "Suspended", namespace=namespace)

    states = checkpoint_volume(reach, "cut", namespace=namespace).glob("step-*/state.pt")
    newest = max(states, key=lambda file: file.stat().st_mtime)
    newest.write_bytes(newest.read_bytes()[:-1000])

    reach.kubectl("patch", "-n", namespace, "crj/cut", "--type=merge", "-p", '{"spec":{"suspend":false}}')
    reach.wait_job("cut", lambda job: running(job) and status(job)["generation"] == 2, namespace=namespace)
    log = reach.kubectl("logs", "-n", namespace, "cut-2-0")
    assert "passed over" in log
    reach.kubectl("delete", "crj", "-n", namespace, "cut")
