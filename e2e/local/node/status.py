"""Builds a pod's status the way a kubelet does. Pure: what the containers did goes in, a status comes out.

The rules are those of the Kubernetes documentation ("Pod Lifecycle"); where that leaves room, the kubelet's
behaviour: a container that waits for its restart counts as stopped, and a pod is Running as soon as nothing
has yet to be started for the first time.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from .api import Object


@dataclasses.dataclass(frozen=True, kw_only=True)
class Waiting:
    """Why a container does not run yet, or not again yet."""

    reason: str
    message: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Terminated:
    """How a container ended."""

    exit_code: int
    reason: str
    message: str = ""
    started_at: str | None = None
    finished_at: str | None = None
    container_id: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ContainerView:
    """What is known of a container; exactly one of `waiting`, `running_since` and `terminated` is set."""

    waiting: Waiting | None = None
    running_since: str | None = None
    terminated: Terminated | None = None
    last: Terminated | None = None
    """How the run before this one ended."""
    restarts: int = 0
    ready: bool = False
    started: bool = False
    container_id: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PodView:
    """What is known of a pod."""

    containers: Mapping[str, ContainerView]
    """Of all containers, init containers included, by name."""
    host_ip: str
    pod_ip: str = ""
    start_time: str | None = None
    network_ready: bool = False
    stopped: bool = False
    """The node will start nothing of this pod any more: its deletion or its end has begun."""
    failure: Waiting | None = None
    """The node gave up on the pod as a whole: reason and message of its failure."""


def is_sidecar(container: Mapping[str, Any]) -> bool:
    """Whether an init container is of the kind that goes on beside the others."""
    return container.get("restartPolicy") == "Always"


def restarts(policy: str, exit_code: int) -> bool:
    """Whether a container that ended with `exit_code` is started again."""
    return policy == "Always" or (policy == "OnFailure" and exit_code != 0)


def initialized(pod: Object, view: PodView) -> bool:
    """Whether all init containers have done their part."""
    for container in pod["spec"].get("initContainers", []):
        seen = view.containers[container["name"]]
        if is_sidecar(container):
            if not (seen.started or seen.last or seen.terminated):
                return False
        elif seen.terminated is None or seen.terminated.exit_code != 0:
            return False
    return True


def phase(pod: Object, view: PodView) -> str:
    """The pod's phase."""
    if view.failure is not None:
        return "Failed"
    spec = pod["spec"]
    policy = spec["restartPolicy"]
    if not initialized(pod, view):
        broken = any(
            seen.terminated and seen.terminated.exit_code != 0 and (policy == "Never" or view.stopped)
            for seen in (
                view.containers[c["name"]] for c in spec.get("initContainers", []) if not is_sidecar(c)
            )
        )
        return "Failed" if broken else "Pending"
    seen_all = [view.containers[container["name"]] for container in spec["containers"]]
    if any(seen.waiting and not seen.last for seen in seen_all):
        return "Failed" if view.stopped else "Pending"
    ends = [seen.terminated or (seen.last if seen.waiting else None) for seen in seen_all]
    codes = [end.exit_code for end in ends if end is not None]
    if len(codes) < len(ends):
        return "Running"
    if not view.stopped and any(restarts(policy, code) for code in codes):
        return "Running"
    return "Failed" if any(codes) else "Succeeded"


def build(pod: Object, view: PodView, now: str) -> Object:
    """The status to write: everything that a kubelet owns in it, conditions as a list to be merged by type.

    Args:
        pod: the object as last read; transition times of unchanged conditions are kept from it.
        view: what is known.
        now: the time, as RFC 3339, for conditions that change.
    """
    spec, old = pod["spec"], pod.get("status", {})
    state = phase(pod, view)
    status: Object = {
        "phase": state,
        "observedGeneration": pod["metadata"].get("generation", 1),
        "hostIP": view.host_ip,
        "hostIPs": [{"ip": view.host_ip}],
        "startTime": view.start_time,
        "reason": view.failure.reason if view.failure else None,
        "message": view.failure.message if view.failure else None,
        "qosClass": old.get("qosClass"),
        "conditions": _conditions(pod, view, state, now),
        "containerStatuses": [_container(c, view, spec) for c in spec["containers"]],
    }
    if view.pod_ip:
        status |= {"podIP": view.pod_ip, "podIPs": [{"ip": view.pod_ip}]}
    if spec.get("initContainers"):
        status["initContainerStatuses"] = [_container(c, view, spec) for c in spec["initContainers"]]
    return status


def _conditions(pod: Object, view: PodView, state: str, now: str) -> list[Object]:
    spec = pod["spec"]
    init_names = [c["name"] for c in spec.get("initContainers", [])]
    names = [c["name"] for c in spec.get("initContainers", []) if is_sidecar(c)]
    names += [c["name"] for c in spec["containers"]]
    unready = [name for name in names if not view.containers[name].ready]
    done = initialized(pod, view)
    if state in ("Succeeded", "Failed"):
        readiness: tuple[bool, str, str] = (
            False,
            "PodCompleted" if state == "Succeeded" else "PodFailed",
            "",
        )
    elif unready:
        readiness = (False, "ContainersNotReady", f"containers with unready status: [{' '.join(unready)}]")
    else:
        readiness = (True, "", "")
    incomplete = f"containers with incomplete status: [{' '.join(init_names)}]"
    wanted = {
        "PodReadyToStartContainers": (view.network_ready, "", ""),
        "Initialized": (True, "", "") if done else (False, "ContainersNotInitialized", incomplete),
        "Ready": readiness,
        "ContainersReady": readiness,
    }
    if done and state == "Succeeded":
        wanted["Initialized"] = (True, "PodCompleted", "")
    old = {condition["type"]: condition for condition in pod.get("status", {}).get("conditions", [])}
    result = []
    for kind, (value, reason, message) in wanted.items():
        text, before = str(value), old.get(kind, {})
        changed = before.get("status") != text
        condition: Object = {
            "type": kind,
            "status": text,
            "lastProbeTime": None,
            "lastTransitionTime": now if changed else before["lastTransitionTime"],
            "observedGeneration": pod["metadata"].get("generation", 1),
            "reason": reason or None,
            "message": message or None,
        }
        result.append(condition)
    return result


def _container(container: Mapping[str, Any], view: PodView, spec: Mapping[str, Any]) -> Object:
    seen = view.containers[container["name"]]
    state: Object
    if seen.running_since is not None:
        state = {"running": {"startedAt": seen.running_since}}
    elif seen.terminated is not None:
        state = {"terminated": _terminated(seen.terminated)}
    else:
        assert seen.waiting is not None
        state = {"waiting": _present(reason=seen.waiting.reason, message=seen.waiting.message)}
    status: Object = {
        "name": container["name"],
        "image": container["image"],
        "imageID": f"host://{container['image']}" if seen.container_id else "",
        "state": state,
        "lastState": {"terminated": _terminated(seen.last)} if seen.last else {},
        "ready": seen.ready,
        "started": seen.started,
        "restartCount": seen.restarts,
    }
    if seen.container_id:
        status["containerID"] = seen.container_id
    return status


def _terminated(end: Terminated) -> Object:
    return {
        "exitCode": end.exit_code,
        "reason": end.reason,
        "startedAt": end.started_at,
        "finishedAt": end.finished_at,
        **_present(message=end.message, containerID=end.container_id),
    }


def _present(**values: str) -> Object:
    return {key: value for key, value in values.items() if value}


def initial(names: Sequence[str], *, first: str) -> dict[str, ContainerView]:
    """The views of containers that wait for their turn: `first` is the reason to give."""
    return {name: ContainerView(waiting=Waiting(reason=first)) for name in names}
