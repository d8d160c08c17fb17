"""A cluster as a user's shell sees it: kubectl, helm, and waiting for what a job comes to."""

import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kubernetes import client, config, watch

from e2e.local.errors import CommandError

if TYPE_CHECKING:
    from e2e.local import Cluster

Job = dict[str, Any]


class NotReached(Exception):  # noqa: N818 - it reads as what happened
    """A job did not come to the state waited for; the message shows its last state."""


@dataclass(frozen=True, kw_only=True)
class Reach:
    """One cluster: programs, kubeconfig, and where its components log (None when not ours)."""

    kubectl_program: str
    helm_program: str
    kubeconfig: Path
    logs: Path | None = None

    @classmethod
    def of(cls, cluster: "Cluster") -> "Reach":
        """Reach an embedded cluster by the programs that it was built with."""
        return cls(
            kubectl_program=cluster.tool("kubectl"),
            helm_program=cluster.tool("helm"),
            kubeconfig=cluster.kubeconfig,
            logs=cluster.dir / "logs",
        )

    @classmethod
    def from_path(cls, kubeconfig: Path) -> "Reach":
        """Reach any cluster by the programs on PATH.

        Raises:
            CommandError: when kubectl or helm is not on PATH.
        """
        found = {name: shutil.which(name) for name in ("kubectl", "helm")}
        for name, path in found.items():
            if path is None:
                raise CommandError(f"{name} is not on PATH: install it to use a cluster of your own")
        return cls(
            kubectl_program=str(found["kubectl"]), helm_program=str(found["helm"]), kubeconfig=kubeconfig
        )

    @property
    def kubectl_command(self) -> list[str]:
        """What a user types before the verb."""
        return [self.kubectl_program, "--kubeconfig", str(self.kubeconfig)]

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        """Run kubectl; returns its output, raises CommandError with what it said."""
        return _run([*self.kubectl_command, *arguments], stdin)

    def helm(self, *arguments: str) -> str:
        """Run helm; returns its output, raises CommandError with what it said."""
        return _run([self.helm_program, "--kubeconfig", str(self.kubeconfig), *arguments], None)

    def api(self) -> client.ApiClient:
        """A client of the official library for this cluster."""
        return config.new_client_from_config(str(self.kubeconfig))

    def wait_job(
        self, name: str, until: Callable[[Job], bool], *, namespace: str = "default", timeout: float = 180.0
    ) -> Job:
        """Wait, by a watch, until the job satisfies `until`; returns the job.

        Raises:
            NotReached: when it does not within `timeout` seconds, is deleted, or is finished otherwise.
        """
        job: Job = {}
        stream = watch.Watch().stream(
            client.CustomObjectsApi(self.api()).list_namespaced_custom_object,
            "cra.dev", "v1alpha1", namespace, "cratrainingjobs",
            field_selector=f"metadata.name={name}", timeout_seconds=int(timeout),
        )  # fmt: skip
        for event in stream:
            job = event["object"]
            if until(job):
                return job
            if event["type"] == "DELETED" or _finished(job):
                break
        status = job.get("status", {})
        raise NotReached(
            f"job {name} (limit {timeout:.0f} s): {status.get('phase')}, {status.get('message')}"
        )

    def wait_finished(self, name: str, *, namespace: str = "default", timeout: float = 600.0) -> Job:
        """Wait until the job has succeeded or failed."""
        return self.wait_job(name, _finished, namespace=namespace, timeout=timeout)


def _finished(job: Job) -> bool:
    return job.get("status", {}).get("phase") in ("Succeeded", "Failed")


def _run(command: list[str], stdin: str | None) -> str:
    done = subprocess.run(
        command,
        input=stdin,
        stdin=None if stdin is not None else subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    if done.returncode != 0:
        raise CommandError(
            f"{Path(command[0]).name} {' '.join(command[3:])}: {done.stderr.strip() or done.stdout.strip()}"
        )
    return done.stdout
