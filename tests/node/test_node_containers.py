"""Containers through a real control plane: how they start, end, restart and are stopped."""

import contextlib
import json
import subprocess
import time
import uuid
from pathlib import Path

import pytest

from tests.node.user import User, python, shell

pytestmark = pytest.mark.cluster


def test_a_pod_that_ends_well_succeeds_and_keeps_its_log(user: User) -> None:
    user.run("good", shell("echo one; echo two >&2; printf three"))
    assert user.output("good") == "one\ntwo\nthree"
    end = user.container("good")["state"]["terminated"]
    assert (end["exitCode"], end["reason"]) == (0, "Completed")
    assert {"Scheduled", "Pulled", "Created", "Started"} <= user.reasons("good")
    conditions = {c["type"]: c["status"] for c in user.get("pod/good")["status"]["conditions"]}
    assert conditions["Initialized"] == "True"
    assert conditions["Ready"] == "False"


def test_a_pod_that_ends_badly_fails_with_its_exit_code_and_message(user: User) -> None:
    user.run("bad", shell('echo \'{"why": "because"}\' > /dev/termination-log; exit 75'))
    user.wait("pod/bad", ".status.phase", "Failed")
    end = user.container("bad")["state"]["terminated"]
    assert (end["exitCode"], end["reason"]) == (75, "Error")
    assert json.loads(end["message"]) == {"why": "because"}


def test_the_message_falls_back_to_the_log_where_asked_for(user: User) -> None:
    container = {"terminationMessagePolicy": "FallbackToLogsOnError"}
    user.run("talks", shell("echo it broke; exit 1"), container=container)
    user.wait("pod/talks", ".status.phase", "Failed")
    assert user.container("talks")["state"]["terminated"]["message"] == "it broke\n"


def test_death_by_signal_is_128_and_its_number(user: User) -> None:
    # The container's process is PID 1, which signals from within cannot kill; so a child tells the tale ($$
    # means $).
    user.run("dies", shell("sh -c 'kill -SEGV $$$$'; exit $?"))
    user.wait("pod/dies", ".status.phase", "Failed")
    assert user.container("dies")["state"]["terminated"]["exitCode"] == 128 + 11


def test_a_program_that_does_not_exist_says_so(user: User) -> None:
    user.run("typo", ["no-such-program"])
    user.wait("pod/typo", ".status.phase", "Failed")
    end = user.container("typo")["state"]["terminated"]
    assert (end["exitCode"], end["reason"]) == (128, "StartError")
    assert "no-such-program" in end["message"]


def test_an_unknown_image_is_refused_then_backed_off(user: User) -> None:
    user.run("wrong", ["true"], container={"image": "registry.example/team/nothing:v1"})
    reason = ".status.containerStatuses[0].state.waiting.reason"
    user.wait("pod/wrong", reason, "ErrImagePull")
    user.wait("pod/wrong", reason, "ImagePullBackOff")
    assert user.get("pod/wrong")["status"]["phase"] == "Pending"
    assert "Failed" in user.reasons("wrong")


def test_a_missing_config_map_holds_the_container_until_it_exists(user: User) -> None:
    reference = {"configMapKeyRef": {"name": "settings", "key": "colour"}}
    user.run("waits", shell("echo $COLOUR"), container={"env": [{"name": "COLOUR", "valueFrom": reference}]})
    reason = ".status.containerStatuses[0].state.waiting.reason"
    user.wait("pod/waits", reason, "CreateContainerConfigError")
    waiting = user.container("waits")["state"]["waiting"]
    assert waiting["message"] == 'configmap "settings" not found'
    user.kubectl("create", "configmap", "settings", "--from-literal=colour=red")
    assert user.output("waits") == "red\n"


def test_a_crashing_container_is_restarted_with_growing_waits(user: User) -> None:
    user.run("crashes", shell("echo run; exit 3"), restartPolicy="Always")
    user.wait("pod/crashes", ".status.containerStatuses[0].state.waiting.reason", "CrashLoopBackOff")
    seen = user.container("crashes")
    assert seen["restartCount"] == 1
    assert seen["lastState"]["terminated"]["exitCode"] == 3
    assert "back-off 10s" in seen["state"]["waiting"]["message"]
    assert user.get("pod/crashes")["status"]["phase"] == "Running"
    assert user.kubectl("logs", "crashes") == "run\n"
    assert user.kubectl("logs", "crashes", "--previous") == "run\n"


def test_restart_on_failure_stops_at_success(user: User) -> None:
    # The first run leaves its mark in the volume, which outlives it.
    container = {"volumeMounts": [{"name": "scratch", "mountPath": "/scratch"}]}
    script = "test -e /scratch/mark && exit 0; touch /scratch/mark; exit 1"
    volumes = [{"name": "scratch", "emptyDir": {}}]
    user.run("second", shell(script), container=container, restartPolicy="OnFailure", volumes=volumes)
    user.wait("pod/second", ".status.phase", "Succeeded")
    assert user.container("second")["restartCount"] == 1


def test_init_containers_run_in_order_and_a_failure_ends_the_pod(user: User) -> None:
    def init(name: str, script: str) -> dict[str, object]:
        mounts = [{"name": "scratch", "mountPath": "/scratch"}]
        return {"name": name, "image": "host", "command": shell(script), "volumeMounts": mounts}

    volumes = [{"name": "scratch", "emptyDir": {}}]
    inits = [init("first", "echo 1 >> /scratch/log"), init("second", "echo 2 >> /scratch/log")]
    mounts = {"volumeMounts": [{"name": "scratch", "mountPath": "/scratch"}]}
    user.run("steps", shell("cat /scratch/log"), container=mounts, initContainers=inits, volumes=volumes)
    broken = [init("first", "exit 4"), init("second", "echo never")]
    user.run("stumbles", ["true"], initContainers=broken, volumes=volumes)
    assert user.output("steps") == "1\n2\n"
    user.wait("pod/stumbles", ".status.phase", "Failed")
    assert user.container("stumbles", "first")["state"]["terminated"]["exitCode"] == 4
    assert user.container("stumbles", "second")["state"]["waiting"]["reason"] == "PodInitializing"


def test_a_sidecar_runs_beside_and_ends_after_the_others(user: User) -> None:
    code = """
        import signal, sys
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(print("asked to leave")))
        print("serving")
        signal.pause()
    """
    sidecar = {"name": "side", "image": "host", "restartPolicy": "Always", "command": python(code)}
    user.run("pair", ["sleep", "0.5"], initContainers=[sidecar])
    user.wait("pod/pair", ".status.phase", "Succeeded")
    assert user.kubectl("logs", "pair", "--container=side") == "serving\nasked to leave\n"


def test_deletion_gives_the_container_time_to_leave(user: User) -> None:
    code = """
        import signal, sys, time
        def leave(*_):
            time.sleep(0.5)
            open("/dev/termination-log", "w").write("left in peace")
            sys.exit(143)
        signal.signal(signal.SIGTERM, leave)
        print("here")
        signal.pause()
    """
    user.run("leaver", python(code))
    user.wait("pod/leaver", ".status.containerStatuses[0].ready", "true")
    watch = subprocess.Popen(
        [
            *("kubectl", f"--kubeconfig={user.cluster.kubeconfig}", f"--namespace={user.namespace}", "get"),
            *("pod/leaver", "--watch", "--output=json", "--output-watch-events"),
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        user.kubectl("delete", "pod", "leaver")
    finally:
        time.sleep(0.3)
        watch.terminate()
    text, decoder, events = watch.communicate()[0], json.JSONDecoder(), []
    while text.strip():
        event, end = decoder.raw_decode(text.lstrip())
        text = text.lstrip()[end:]
        events.append(event)
    assert events[-1]["type"] == "DELETED"
    last = events[-1]["object"]["status"]["containerStatuses"][0]["state"]["terminated"]
    assert (last["exitCode"], last["message"]) == (143, "left in peace")


def test_a_container_that_ignores_sigterm_is_killed_after_its_grace(user: User) -> None:
    user.run("stays", python("import time; print('up'); time.sleep(600)"), terminationGracePeriodSeconds=1)
    user.wait("pod/stays", ".status.containerStatuses[0].ready", "true")
    start = time.monotonic()
    user.kubectl("delete", "pod", "stays")
    assert 1.0 <= time.monotonic() - start < 5.0


def test_a_forced_deletion_leaves_no_process(user: User) -> None:
    mark = f"600.{uuid.uuid4().int % 10**9}"
    user.run("forced", ["sleep", mark])
    user.wait("pod/forced", ".status.containerStatuses[0].ready", "true")
    assert _running(mark)
    user.kubectl("delete", "pod", "forced", "--force", "--grace-period=0")
    deadline = time.monotonic() + 5
    while _running(mark) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _running(mark)


def _running(mark: str) -> bool:
    """Whether a process on this machine has `mark` as an argument."""
    for line in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if mark.encode() in line.read_bytes().split(b"\0"):
                return True
    return False


def test_pre_stop_runs_before_sigterm(user: User) -> None:
    code = """
        import os, signal, sys
        def leave(*_):
            print("hook was here" if os.path.exists("/scratch/hook") else "no hook", flush=True)
            os._exit(0)
        signal.signal(signal.SIGTERM, leave)
        signal.pause()
    """
    container = {
        "lifecycle": {"preStop": {"exec": {"command": ["touch", "/scratch/hook"]}}},
        "volumeMounts": [{"name": "scratch", "mountPath": "/scratch"}],
    }
    user.run("hooked", python(code), container=container, volumes=[{"name": "scratch", "emptyDir": {}}])
    user.wait("pod/hooked", ".status.containerStatuses[0].ready", "true")
    logs = subprocess.Popen(
        [
            *("kubectl", f"--kubeconfig={user.cluster.kubeconfig}", f"--namespace={user.namespace}"),
            *("logs", "--follow", "hooked"),
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    time.sleep(0.5)
    user.kubectl("delete", "pod", "hooked")
    assert logs.communicate(timeout=10)[0] == "hook was here\n"


def test_a_pod_past_its_deadline_fails(user: User) -> None:
    user.run("slow", ["sleep", "600"], activeDeadlineSeconds=1, terminationGracePeriodSeconds=1)
    user.wait("pod/slow", ".status.reason", "DeadlineExceeded")
    assert user.get("pod/slow")["status"]["phase"] == "Failed"


def test_memory_beyond_the_limit_is_an_oom_kill(user: User) -> None:
    hog = "x = bytearray(200 * 2**20); import time; time.sleep(600)"
    user.run("hog", python(hog), container={"resources": {"limits": {"memory": "100Mi"}}})
    user.wait("pod/hog", ".status.phase", "Failed")
    end = user.container("hog")["state"]["terminated"]
    assert (end["exitCode"], end["reason"]) == (137, "OOMKilled")


def test_logs_can_be_followed_cut_and_stamped(user: User) -> None:
    user.run("counts", shell("for i in 1 2 3 4 5; do echo $i; sleep 0.2; done"))
    user.wait("pod/counts", ".status.containerStatuses[0].ready", "true")
    assert user.kubectl("logs", "--follow", "counts") == "1\n2\n3\n4\n5\n"
    assert user.kubectl("logs", "--tail=2", "counts") == "4\n5\n"
    stamped = user.kubectl("logs", "--timestamps", "--tail=1", "counts").split()
    assert stamped[0].startswith("20")
    assert stamped[1] == "5"
    assert user.kubectl("logs", "--since=1h", "--limit-bytes=3", "counts") == "1\n2"
