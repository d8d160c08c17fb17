"""The operator on a real control plane: what a user does and what happens to pods that really run."""

import json
import time

import pytest

from e2e.local import Cluster
from tests.operator.operator_process import OperatorProcess, User, wait_for

pytestmark = pytest.mark.cluster

WAIT = "import signal, sys; signal.signal(signal.SIGTERM, lambda *_: sys.exit(143)); signal.pause()"
SUCCEED = """
import json, os
result = {"outcome": "succeeded", "metrics": {"accuracy": 0.97}, "seconds": 1.5,
          "progress": {"epoch": 2, "epochs": 2, "step": 40, "ratio": 1.0, "samples": 640}}
if os.environ["RANK"] == "0":
    json.dump(result, open("/dev/termination-log", "w"))
"""
SLOW_AT_FIRST = """
import http.server, os, signal, sys
slow = os.environ["RANK"] == "1" and os.environ["CRA_GENERATION"] == "1"

class Metrics(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.end_headers()
        self.wfile.write(f'cra_trainer_straggler{{rank="{os.environ["RANK"]}"}} {int(slow)}\\n'.encode())

signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
port = int(os.environ["CRA_METRICS_PORT"])
http.server.ThreadingHTTPServer((os.environ["CRA_POD_IP"], port), Metrics).serve_forever()
"""
ELASTIC = {"minGPUs": 1, "maxGPUs": 4, "elastic": True, "policy": "static"}
RAISE = f"import os\nif os.environ['RANK'] == '1': raise KeyError('label')\n{WAIT}"


def test_a_job_runs_to_its_end(operator: OperatorProcess, user: User) -> None:
    user.apply("short", SUCCEED, gpus=2)
    status = user.wait("short", "Succeeded")
    assert status["result"]["metrics"] == {"accuracy": 0.97}
    assert status["result"]["steps"] == 40
    assert status["message"] == "finished on 2 GPUs: accuracy 0.97"
    assert (status["gpus"], status["restarts"], status["failures"]) == (0, 0, 0)
    assert status["observedGeneration"] == 1
    assert status["gpuSeconds"] >= 0
    assert [worker["gpuType"] for worker in status["workers"]] == ["NVIDIA-H100-SIM"] * 2
    assert user.condition("short", "Succeeded")["status"] == "True"
    reasons = wait_for(lambda: [reason for reason, _ in user.events("short")], "events")
    assert "Started" in reasons
    row = user.kubectl("get", "crj", "short", "--no-headers").split()
    assert row[:4] == ["short", "Succeeded", "0/2-4", "100%"]
    assert "finalizers" not in user.job("short")["metadata"]
    text = operator.metrics()
    assert 'cra_operator_reconcile_seconds_count{result="success"}' in text
    assert "cra_operator_first_pod_seconds_count" in text


def test_a_wrong_image_is_named_at_once_and_ends(operator: OperatorProcess, user: User) -> None:
    trainer = {"name": "trainer", "image": "no-such-image:1"}
    job = {
        "apiVersion": "cra.dev/v1alpha1",
        "kind": "CRATrainingJob",
        "metadata": {"name": "wrong"},
        "spec": {
            "template": {"spec": {"containers": [trainer]}},
            "scaling": {"maxGPUs": 1},
            "startupDeadlineSeconds": 4,
        },
    }
    user.kubectl("apply", "-f", "-", stdin=json.dumps(job))
    status = user.wait("wrong", "Starting/ErrImagePull")
    assert "no-such-image:1" in status["message"]
    assert user.condition("wrong", "Degraded")["reason"] == "ErrImagePull"
    status = user.wait("wrong", "Failed/StartupDeadlineExceeded")
    assert "ErrImagePull" in status["message"]
    wait_for(lambda: user.pods("wrong") == [], "no pod holds a GPU")
    told = wait_for(lambda: dict(user.events("wrong")).get("StartupDeadlineExceeded"), "the event")
    assert "no-such-image:1" in told


def test_a_script_that_raises_is_tried_again_and_then_named(operator: OperatorProcess, user: User) -> None:
    user.apply("raises", RAISE, gpus=2, backoffLimit=1)
    status = user.wait("raises", "Restarting/ScriptError")
    assert "rank 1 (pod raises-1-1)" in status["message"]
    assert status["result"]["error"]["message"] == "exit code 1: KeyError: 'label'"
    status = user.wait("raises", "Failed/ScriptError")
    assert (status["failures"], status["restarts"], status["generation"]) == (2, 1, 2)
    assert user.condition("raises", "Failed")["reason"] == "ScriptError"
    wait_for(lambda: [pod["metadata"]["name"] for pod in user.pods("raises")] == ["raises-2-1"], "logs kept")
    assert "KeyError" in user.kubectl("logs", "raises-2-1")


def test_kubectl_scale_changes_the_size(operator: OperatorProcess, user: User) -> None:
    user.apply("sized", WAIT)
    user.wait("sized", "Running")
    user.kubectl("scale", "crj/sized", "--replicas=3")
    wait_for(lambda: user.status("sized").get("gpus") == 3, "three GPUs")
    status = user.wait("sized", "Running")
    assert (status["rescales"], status["generation"], status["restarts"]) == (1, 2, 0)
    assert status["lastDecision"]["message"] == (
        "from 1 GPU to 3 GPUs by way of a checkpoint and a restart (the script is not elastic)"
    )
    names = sorted(pod["metadata"]["name"] for pod in user.pods("sized"))
    assert names == ["sized-2-0", "sized-2-1", "sized-2-2"]
    assert user.kubectl("get", "crj/sized", "-o", "jsonpath={.status.selector}") == "cra.dev/job=sized"


def test_an_elastic_run_grows_and_shrinks_and_never_starts_anew(
    operator: OperatorProcess, user: User
) -> None:
    user.apply("living", WAIT, scaling=ELASTIC)
    user.wait("living", "Running")
    user.kubectl("scale", "crj/living", "--replicas=4")
    wait_for(lambda: user.status("living").get("rescales") == 1, "grown")
    first, *rest = user.pods("living")
    assert [pod["metadata"]["name"] for pod in rest] == ["living-2-1", "living-2-2", "living-2-3"]
    assert {pod["metadata"]["labels"]["cra.dev/run"] for pod in rest} == {"1"}
    user.kubectl("scale", "crj/living", "--replicas=2")
    wait_for(lambda: user.status("living").get("rescales") == 2, "shrunk")
    assert [pod["metadata"]["name"] for pod in user.pods("living")] == ["living-1-0", "living-2-1"]
    assert user.pods("living")[0]["metadata"]["uid"] == first["metadata"]["uid"]
    status = user.status("living")
    assert (status["phase"], status["gpus"], status["generation"], status["restarts"]) == ("Running", 2, 2, 0)
    assert status["display"]["gpus"] == "2/1-4"
    told = wait_for(lambda: [m for r, m in user.events("living") if r == "Rescaled"][:2], "the events")
    assert sorted(told) == ["1 → 4 GPUs while training went on", "4 → 2 GPUs while training went on"]


def test_a_lost_worker_is_replaced_while_the_others_train(operator: OperatorProcess, user: User) -> None:
    user.apply("hurt", WAIT, scaling={**ELASTIC, "minGPUs": 3})
    user.wait("hurt", "Running")
    leader = user.pods("hurt")[0]["metadata"]["uid"]
    user.kubectl("delete", "pod/hurt-1-1", "--wait=false")
    wait_for(lambda: dict(user.events("hurt")).get("Replaced"), "a pod in its place")
    assert [pod["metadata"]["name"] for pod in user.pods("hurt")] == ["hurt-1-0", "hurt-1-2", "hurt-2-1"]
    assert user.pods("hurt")[0]["metadata"]["uid"] == leader
    status = user.status("hurt")
    assert (status["phase"], status["restarts"], status["failures"]) == ("Running", 0, 0)
    assert user.condition("hurt", "Degraded")["status"] == "False"


def test_a_straggler_moves_to_another_node_once_there_is_one(operator: OperatorProcess, user: User) -> None:
    user.apply("uneven", SLOW_AT_FIRST, scaling={**ELASTIC, "minGPUs": 2, "stragglers": "Replace"})
    user.wait("uneven", "Running")
    leader, slow = user.pods("uneven")
    wait_for(lambda: user.condition("uneven", "Degraded").get("reason") == "Straggler", "it is named")
    message = user.condition("uneven", "Degraded")["message"]
    assert message.startswith("slow for good: uneven-1-1 on gpu-0;")
    assert "It stays: no other node has room" in message
    assert user.pods("uneven")[1]["metadata"]["uid"] == slow["metadata"]["uid"]
    user.cluster.kubectl("uncordon", "spare")
    try:
        wait_for(lambda: dict(user.events("uneven")).get("Replaced"), "a pod in its place")
    finally:
        user.cluster.kubectl("cordon", "spare")
    stayed, new = user.pods("uneven")
    assert stayed["metadata"]["uid"] == leader["metadata"]["uid"]
    assert (new["metadata"]["name"], new["spec"]["nodeName"]) == ("uneven-2-1", "spare")
    assert "(pod uneven-1-1 on gpu-0) was slow for good" in dict(user.events("uneven"))["ReplacingStraggler"]
    status = user.status("uneven")
    assert (status["phase"], status["restarts"], status["rescales"]) == ("Running", 0, 0)
    assert user.condition("uneven", "Degraded")["status"] == "False"


def test_suspend_gives_everything_back_and_resume_goes_on(operator: OperatorProcess, user: User) -> None:
    user.apply("pausing", WAIT, gpus=2)
    user.wait("pausing", "Running")
    user.edit("pausing", suspend=True)
    status = user.wait("pausing", "Suspended")
    assert status["gpus"] == 0
    assert user.pods("pausing") == []
    user.edit("pausing", suspend=False)
    status = user.wait("pausing", "Running")
    assert (status["generation"], status["restarts"]) == (2, 0)


def test_a_gang_waits_whole_and_starts_when_there_is_room(operator: OperatorProcess, user: User) -> None:
    user.apply("first", WAIT, gpus=3)
    user.wait("first", "Running")
    user.apply("second", WAIT, gpus=2)
    status = user.wait("second", "Pending")
    assert status["message"] == "waiting for 2 GPUs: 1 of 4 free"
    assert status["queuePosition"] == 1
    assert user.pods("second") == []
    user.kubectl("delete", "crj/first")
    user.wait("second", "Running")


def test_deletion_leaves_nothing_even_while_the_operator_is_down(
    operator: OperatorProcess, user: User
) -> None:
    user.apply("gone", WAIT, gpus=2)
    user.wait("gone", "Running")
    operator.kill()
    user.kubectl("delete", "crj/gone", "--timeout=20s")
    kinds = "pods,services,persistentvolumeclaims"
    wait_for(
        lambda: user.kubectl("get", kinds, "-l", "cra.dev/job=gone", "-o", "name") == "", "nothing is left"
    )


def test_a_killed_operator_goes_on_where_it_was_and_training_never_stops(
    operator: OperatorProcess, user: User
) -> None:
    user.apply("steady", WAIT, gpus=2)
    user.wait("steady", "Running")
    before = {pod["metadata"]["uid"] for pod in user.pods("steady")}
    operator.kill()
    user.apply("meanwhile", WAIT, gpus=1)
    operator.restart()
    user.wait("meanwhile", "Running")
    status = user.status("steady")
    assert (status["phase"], status["generation"], status["restarts"]) == ("Running", 1, 0)
    assert {pod["metadata"]["uid"] for pod in user.pods("steady")} == before


def test_what_is_deleted_during_a_gap_in_the_watch_leaves_no_ghost(
    operator: OperatorProcess, user: User, stage: Cluster
) -> None:
    user.apply("haunted", WAIT, gpus=2)
    user.apply("spirit", WAIT, gpus=2)
    user.wait("haunted", "Running")
    user.wait("spirit", "Running")
    operator.pause()
    user.kubectl("delete", "pod/haunted-1-1", "--grace-period=0", "--force")
    user.kubectl("delete", "crj/spirit", "--wait=false")
    user.kubectl("delete", "pods", "-l", "cra.dev/job=spirit", "--grace-period=0", "--force")
    stage.restart_component("kube-apiserver")  # its watch cache is new: nobody is told of the past
    operator.resume()
    wait_for(lambda: user.status("haunted").get("generation") == 2, "the lost pod is noticed", seconds=40)
    status = user.wait("haunted", "Running")
    assert status["restarts"] == 1
    assert status["failures"] == 0, "nobody's fault but the deleter's"
    # All four GPUs are countable as free again but for haunted's two.
    user.apply("living", WAIT, gpus=2)
    user.wait("living", "Running")


def test_a_quota_is_waited_for(operator: OperatorProcess, user: User) -> None:
    user.kubectl("create", "quota", "few", "--hard=pods=1")
    user.apply("many", WAIT, gpus=2)
    status = user.wait("many", "Restarting/PodForbidden")
    assert "exceeded quota" in status["message"]
    wait_for(lambda: user.pods("many") == [], "no part of the gang is kept")
    user.kubectl("delete", "quota", "few")
    status = user.wait("many", "Running")
    assert status["failures"] == 0


def test_a_pod_that_the_api_server_will_never_take_fails_the_job(
    operator: OperatorProcess, user: User
) -> None:
    job = {
        "apiVersion": "cra.dev/v1alpha1",
        "kind": "CRATrainingJob",
        "metadata": {"name": "invalid"},
        "spec": {
            "template": {
                "spec": {
                    "containers": [
                        {
                            "name": "trainer",
                            "image": "host",
                            "volumeMounts": [{"name": "no", "mountPath": "/x"}],
                        }
                    ]
                }
            },
            "scaling": {"maxGPUs": 1},
        },
    }
    user.kubectl("apply", "-f", "-", stdin=json.dumps(job))
    status = user.wait("invalid", "Failed/PodInvalid")
    assert 'volumeMounts[0].name: Not found: "no"' in status["message"]


def test_nobodys_claim_or_service_is_taken_over(operator: OperatorProcess, user: User) -> None:
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "mine-checkpoint"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "10Gi"}}},
    }
    user.kubectl("create", "-f", "-", stdin=json.dumps(claim))
    user.apply("mine", WAIT)
    status = user.wait("mine", "Restarting/NameTaken")
    assert "PersistentVolumeClaim mine-checkpoint exists and is not this job's" in status["message"]
    assert user.pods("mine") == []
    user.kubectl("create", "service", "clusterip", "web", "--tcp=80:80")
    user.apply("web", WAIT)
    status = user.wait("web", "Restarting/NameTaken")
    assert "Service web exists and is not this job's" in status["message"]
    for kind in ("pvc/mine-checkpoint", "service/web"):
        assert user.kubectl("get", kind, "-o", "jsonpath={.metadata.ownerReferences}") == ""


def test_a_finished_job_goes_when_its_time_is_over(operator: OperatorProcess, user: User) -> None:
    user.apply("brief", SUCCEED, ttlSecondsAfterFinished=2)
    user.wait("brief", "Succeeded")
    wait_for(lambda: user.kubectl("get", "crj", "-o", "name") == "", "deleted")


def test_a_job_made_anew_under_its_old_name_starts_over(operator: OperatorProcess, user: User) -> None:
    user.apply("again", WAIT, gpus=2)
    user.wait("again", "Running")
    user.kubectl("delete", "crj/again", "--wait=false")
    user.apply("again", SUCCEED, gpus=1)
    status = user.wait("again", "Succeeded")
    assert (status["generation"], status["restarts"]) == (1, 0)


def test_another_managers_job_is_left_alone(operator: OperatorProcess, user: User) -> None:
    user.apply("theirs", WAIT, managedBy="example.com/other")
    user.apply("ours", WAIT)
    user.wait("ours", "Running")
    assert user.status("theirs") == {}


def test_the_standby_takes_over_within_fifteen_seconds_and_a_stop_hands_over_at_once(
    operator: OperatorProcess, user: User, stage: Cluster, tmp_path_factory: pytest.TempPathFactory
) -> None:
    operator.stop()  # the shared one knows no election
    logs = tmp_path_factory.mktemp("election")
    leader = OperatorProcess(stage, logs / "one.log", CRA_LEADER_ELECTION="true")
    leader.wait_ready()
    standby = OperatorProcess(stage, logs / "two.log", name="two", CRA_LEADER_ELECTION="true")
    try:
        standby.wait_ready()
        assert "one leads" in standby.log
        assert "acting" not in standby.log
        leader.kill()
        killed = time.monotonic()
        user.apply("orphan", WAIT)
        user.wait("orphan", "Running", seconds=20)
        assert time.monotonic() - killed < 15
        leader.restart()
        assert standby.stop() < 5
        assert standby.process.returncode == 0
        stopped = time.monotonic()
        user.apply("heir", WAIT)
        user.wait("heir", "Running")
        assert time.monotonic() - stopped < 6
    finally:
        for process in (leader, standby):
            if process.process.poll() is None:
                process.stop()
