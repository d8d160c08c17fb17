"""A user with kubectl and a namespace of their own."""

import json
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from e2e.local import Cluster


class User:
    """Applies manifests, waits, looks."""

    def __init__(self, cluster: Cluster, namespace: str) -> None:
        self.cluster, self.namespace = cluster, namespace

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        return self.cluster.kubectl(f"--namespace={self.namespace}", *arguments, stdin=stdin)

    def apply(self, *manifests: Mapping[str, Any]) -> None:
        items = {"apiVersion": "v1", "kind": "List", "items": manifests}
        self.kubectl("apply", "--filename=-", stdin=json.dumps(items))

    def run(
        self,
        name: str,
        command: Sequence[str],
        *,
        container: Mapping[str, Any] | None = None,
        labels: Mapping[str, str] | None = None,
        **spec: Any,
    ) -> None:
        """Creates a pod with one container."""
        main = {"name": "main", "image": "host", "command": command, **(container or {})}
        defaults = {"restartPolicy": "Never", "terminationGracePeriodSeconds": 5, "containers": [main]}
        metadata = {"name": name, "labels": {"app": name} | dict(labels or {})}
        self.apply({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": defaults | spec})

    def wait(self, what: str, path: str, value: str = "", *, seconds: int = 30) -> None:
        """Waits until a field of an object, or of those with a label, has a value, or any value."""
        condition = f"--for=jsonpath={{{path}}}" + (f"={value}" if value else "")
        self.kubectl("wait", *what.split(), condition, f"--timeout={seconds}s")

    def get(self, what: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.kubectl("get", what, "--output=json"))
        return found

    def container(self, pod: str, name: str = "main") -> dict[str, Any]:
        """The status of a container."""
        status = self.get(f"pod/{pod}")["status"]
        every = [*status.get("initContainerStatuses", []), *status["containerStatuses"]]
        found: dict[str, Any] = next(c for c in every if c["name"] == name)
        return found

    def output(self, name: str) -> str:
        """What a pod wrote until it succeeded."""
        self.wait(f"pod/{name}", ".status.phase", "Succeeded")
        return self.kubectl("logs", name)

    def reasons(self, pod: str) -> set[str]:
        """Reasons of the events about a pod."""
        selector = f"--field-selector=involvedObject.name={pod}"
        events = json.loads(self.kubectl("get", "events", selector, "--output=json"))
        return {event["reason"] for event in events["items"]}


def python(code: str) -> list[str]:
    """The command of a container that runs some Python."""
    return ["python", "-u", "-c", textwrap.dedent(code)]


def shell(script: str) -> list[str]:
    """The command of a container that runs a shell script."""
    return ["sh", "-c", textwrap.dedent(script)]
