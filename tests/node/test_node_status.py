"""A pod's status from what its containers did, by the rules of kubelets."""

import dataclasses
from typing import Any

import pytest

from e2e.local.node import status
from e2e.local.node.status import ContainerView, PodView, Terminated, Waiting

_NEW = ContainerView(waiting=Waiting(reason="ContainerCreating"))
_RUNNING = ContainerView(running_since="2030-01-01T00:00:00Z", started=True, container_id="host://1")
_READY = dataclasses.replace(_RUNNING, ready=True)


def _ended(code: int) -> ContainerView:
    return ContainerView(terminated=Terminated(exit_code=code, reason="Error" if code else "Completed"))


def _crashing(code: int) -> ContainerView:
    last = Terminated(exit_code=code, reason="Error")
    return ContainerView(waiting=Waiting(reason="CrashLoopBackOff"), last=last, restarts=1)


def _pod(policy: str, *names: str, init: tuple[str, ...] = (), sidecar: bool = False) -> dict[str, Any]:
    extra = {"restartPolicy": "Always"} if sidecar else {}
    return {
        "metadata": {"name": "p", "uid": "u", "generation": 3},
        "spec": {
            "restartPolicy": policy,
            "containers": [{"name": name, "image": "host"} for name in names],
            "initContainers": [{"name": name, "image": "host", **extra} for name in init],
        },
    }


def _view(stopped: bool = False, **containers: ContainerView) -> PodView:
    return PodView(containers=containers, host_ip="10.244.255.10", stopped=stopped)


@pytest.mark.parametrize(
    ("policy", "views", "phase"),
    [
        ("Never", (_NEW, _NEW), "Pending"),
        ("Never", (_RUNNING, _NEW), "Pending"),
        ("Never", (_RUNNING, _READY), "Running"),
        ("Never", (_RUNNING, _ended(0)), "Running"),
        ("Never", (_ended(0), _ended(0)), "Succeeded"),
        ("Never", (_ended(0), _ended(1)), "Failed"),
        ("OnFailure", (_ended(0), _ended(0)), "Succeeded"),
        ("OnFailure", (_ended(0), _ended(1)), "Running"),
        ("OnFailure", (_ended(0), _crashing(1)), "Running"),
        ("Always", (_ended(0), _ended(0)), "Running"),
        ("Always", (_crashing(0), _crashing(3)), "Running"),
    ],
)
def test_phase_follows_the_restart_policy(
    policy: str, views: tuple[ContainerView, ContainerView], phase: str
) -> None:
    assert status.phase(_pod(policy, "a", "b"), _view(a=views[0], b=views[1])) == phase


@pytest.mark.parametrize(
    ("policy", "seen", "phase"),
    [
        ("Always", _ended(0), "Succeeded"),
        ("Always", _ended(143), "Failed"),
        ("OnFailure", _ended(1), "Failed"),
        ("Always", _RUNNING, "Running"),
        ("Never", _NEW, "Failed"),
    ],
)
def test_nothing_is_restarted_in_a_stopped_pod(policy: str, seen: ContainerView, phase: str) -> None:
    assert status.phase(_pod(policy, "a"), _view(stopped=True, a=seen)) == phase


def test_a_pod_is_pending_until_its_init_containers_are_done() -> None:
    pod = _pod("Always", "a", init=("i", "j"))
    assert status.phase(pod, _view(i=_ended(0), j=_RUNNING, a=_NEW)) == "Pending"
    assert status.phase(pod, _view(i=_ended(0), j=_ended(1), a=_NEW)) == "Pending"
    assert status.phase(pod, _view(i=_ended(0), j=_ended(0), a=_READY)) == "Running"


def test_a_failed_init_container_fails_a_pod_that_is_never_restarted() -> None:
    view = _view(i=_ended(1), a=_NEW)
    assert status.phase(_pod("Never", "a", init=("i",)), view) == "Failed"


def test_a_sidecar_only_has_to_have_started() -> None:
    pod = _pod("Never", "a", init=("side",), sidecar=True)
    assert not status.initialized(pod, _view(side=_NEW, a=_NEW))
    assert status.initialized(pod, _view(side=_RUNNING, a=_NEW))
    assert status.phase(pod, _view(side=_READY, a=_ended(0))) == "Succeeded"


def test_the_node_can_fail_a_pod_as_a_whole() -> None:
    failure = Waiting(reason="DeadlineExceeded", message="too late")
    view = dataclasses.replace(_view(a=_RUNNING), failure=failure)
    built = status.build(_pod("Never", "a"), view, "2030-01-01T00:00:01Z")
    assert (built["phase"], built["reason"], built["message"]) == ("Failed", "DeadlineExceeded", "too late")


def _conditions(built: dict[str, Any]) -> dict[str, tuple[str, str | None]]:
    return {c["type"]: (c["status"], c["reason"]) for c in built["conditions"]}


def test_conditions_name_the_unready_containers() -> None:
    built = status.build(_pod("Never", "a", "b"), _view(a=_READY, b=_RUNNING), "2030-01-01T00:00:01Z")
    assert _conditions(built)["Ready"] == ("False", "ContainersNotReady")
    message = next(c["message"] for c in built["conditions"] if c["type"] == "ContainersReady")
    assert message == "containers with unready status: [b]"
    done = status.build(_pod("Never", "a"), _view(a=_ended(0)), "2030-01-01T00:00:01Z")
    assert _conditions(done)["Ready"] == ("False", "PodCompleted")
    assert _conditions(done)["Initialized"] == ("True", "PodCompleted")


def test_transition_times_change_with_the_condition_only() -> None:
    pod = _pod("Never", "a")
    pod["status"] = status.build(pod, _view(a=_RUNNING), "2030-01-01T00:00:01Z")
    later = status.build(pod, _view(a=_READY), "2030-01-01T00:00:09Z")
    times = {c["type"]: c["lastTransitionTime"] for c in later["conditions"]}
    assert times["Ready"] == "2030-01-01T00:00:09Z"
    assert times["Initialized"] == "2030-01-01T00:00:01Z"
    assert later == status.build(pod | {"status": later}, _view(a=_READY), "2030-01-01T00:00:30Z")


def test_container_statuses_tell_state_and_history() -> None:
    built = status.build(_pod("Always", "a"), _view(a=_crashing(137)), "2030-01-01T00:00:01Z")
    (seen,) = built["containerStatuses"]
    assert seen["state"] == {"waiting": {"reason": "CrashLoopBackOff"}}
    assert seen["lastState"]["terminated"]["exitCode"] == 137
    assert (seen["restartCount"], seen["ready"], seen["image"]) == (1, False, "host")
    assert built["observedGeneration"] == 3
