"""The operator as a process on this machine, working on a real control plane; and its user."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from e2e.local import Cluster

Object = dict[str, Any]


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def wait_for(check: Callable[[], Any], what: str, *, seconds: float = 60) -> Any:
    """Ask until the answer is truthy, and return it."""
    deadline = time.monotonic() + seconds
    while not (answer := check()):
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {what}"
        time.sleep(0.1)
    return answer


class OperatorProcess:
    """`python -m cra_operator` with a kubeconfig."""

    def __init__(self, cluster: Cluster, log: Path, *, name: str = "one", **environ: str) -> None:
        self.health_port, self.metrics_port = free_port(), free_port()
        self._log = log
        self._environ = {
            **os.environ,
            "KUBECONFIG": str(cluster.kubeconfig),
            "CRA_TRAINER_IMAGE": "cra-trainer",
            "CRA_PROMETHEUS_URL": cluster.prometheus_url,
            "CRA_OBSERVE_INTERVAL_SECONDS": "1",
            # A paused process would lose its lease and end; who tests the election switches it on.
            "CRA_LEADER_ELECTION": "false",
            "CRA_POD_NAME": name,
            "CRA_POD_NAMESPACE": "default",
            "CRA_HEALTH_PORT": str(self.health_port),
            "CRA_METRICS_PORT": str(self.metrics_port),
            **environ,
        }
        self.process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        with self._log.open("ab") as log:
            command = [sys.executable, "-m", "cra_operator"]
            return subprocess.Popen(command, env=self._environ, stdout=log, stderr=log)

    @property
    def log(self) -> str:
        """All that it wrote."""
        return self._log.read_text()

    def probe(self, path: str) -> int:
        """HTTP status of a health endpoint; 0 while nobody answers."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.health_port}{path}", timeout=2) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return 0

    def metrics(self) -> str:
        """What Prometheus would scrape."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=5) as answer:
            return str(answer.read().decode())

    def wait_ready(self) -> None:
        """Wait until it acts or stands by."""
        wait_for(lambda: self.probe("/readyz") == 200, f"ready\n{self.log}", seconds=30)

    def kill(self) -> None:
        """SIGKILL: no chance to clean up."""
        self.process.kill()
        self.process.wait()

    def restart(self) -> None:
        """Start it again after it ended."""
        self.process = self._start()
        self.wait_ready()

    def pause(self) -> None:
        """Stop it in its tracks."""
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        self.process.send_signal(signal.SIGCONT)

    def stop(self) -> float:
        """SIGTERM; return the seconds that it took to end."""
        started = time.monotonic()
        self.process.send_signal(signal.SIGCONT)
        self.process.terminate()
        try:
            self.process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self.kill()
            raise
        return time.monotonic() - started


class User:
    """Someone with kubectl in a namespace."""

    def __init__(self, cluster: Cluster, namespace: str) -> None:
        self.cluster = cluster
        self.namespace = namespace

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        """Run kubectl in the namespace."""
        return self.cluster.kubectl("-n", self.namespace, *arguments, stdin=stdin)

    def apply(self, name: str, script: str, *, gpus: int = 1, **spec: Any) -> None:
        """Apply a job that runs a piece of Python on every rank."""
        trainer = {"name": "trainer", "image": "host", "command": ["python", "-u", "-c", script]}
        job = {
            "apiVersion": "cra.dev/v1alpha1",
            "kind": "CRATrainingJob",
            "metadata": {"name": name},
            "spec": {
                "template": {"spec": {"containers": [trainer], "terminationGracePeriodSeconds": 5}},
                "scaling": {"minGPUs": gpus, "maxGPUs": 4},
                **spec,
            },
        }
        self.kubectl("apply", "-f", "-", stdin=yaml.safe_dump(job))

    def edit(self, name: str, **spec: Any) -> None:
        """Merge into a job's spec."""
        self.kubectl("patch", f"crj/{name}", "--type=merge", "-p", json.dumps({"spec": spec}))

    def job(self, name: str) -> Object:
        """The job."""
        found: Object = json.loads(self.kubectl("get", f"crj/{name}", "-o", "json"))
        return found

    def status(self, name: str) -> Object:
        """The job's status."""
        found: Object = self.job(name).get("status", {})
        return found

    def shown(self, name: str) -> str:
        """What `kubectl get` shows as the job's phase."""
        return str(self.status(name).get("display", {}).get("phase", ""))

    def wait(self, name: str, shown: str, *, seconds: float = 60) -> Object:
        """Wait until `kubectl get` shows this phase; return the status."""
        wait_for(
            lambda: self.shown(name) == shown,
            f"{name} shows {shown}, last {self.status(name)}",
            seconds=seconds,
        )
        return self.status(name)

    def pods(self, name: str) -> list[Object]:
        """The job's pods."""
        found: list[Object] = json.loads(
            self.kubectl("get", "pods", "-l", f"cra.dev/job={name}", "-o", "json")
        )["items"]
        return found

    def condition(self, name: str, kind: str) -> Object:
        """One of the job's conditions, empty if it is not set."""
        conditions = self.status(name).get("conditions", [])
        return next((c for c in conditions if c["type"] == kind), {})

    def events(self, name: str) -> list[tuple[str, str]]:
        """(reason, message) of the job's events."""
        selector = f"involvedObject.name={name},involvedObject.kind=CRATrainingJob"
        found = json.loads(self.kubectl("get", "events", "--field-selector", selector, "-o", "json"))
        return [(event["reason"], event["message"]) for event in found["items"]]
