"""How long after `kubectl apply` does a job's first pod exist? 50 jobs at once, the operator from its chart.

Each job's clock starts when its create request is sent and stops when a watch on pods delivers its first pod,
so the API server's and the watch's own time are included. The pods run a process that only waits: the figure
is the operator's, not the trainer's start-up.

    make bench NAME=apply_latency
"""

import json
import statistics
import threading
import time
from importlib.metadata import version
from typing import Any

from kubernetes import client, config

from benchmarks.report import describe_machine, print_figures, print_table
from e2e import operator_chart
from e2e.local import Cluster, NodeSpec

JOBS = 50
DEADLINE_SECONDS = 120.0


def job_manifest(name: str) -> dict[str, Any]:
    """A one-GPU job whose pod only waits."""
    trainer = {"name": "trainer", "image": "host", "command": ["sleep", "3600"]}
    return {
        "apiVersion": "cra.dev/v1alpha1",
        "kind": "CRATrainingJob",
        "metadata": {"name": name},
        "spec": {"template": {"spec": {"containers": [trainer]}}, "scaling": {"maxGPUs": 1}},
    }


class FirstPods(threading.Thread):
    """Watches pods and notes when each job's first one is seen (monotonic seconds)."""

    def __init__(self, api: client.CoreV1Api, expected: int) -> None:
        super().__init__(daemon=True)
        self.seen: dict[str, float] = {}
        self.complete = threading.Event()
        self._expected = expected
        self._stream = api.list_namespaced_pod(
            "default", watch=True, label_selector="cra.dev/job", _preload_content=False
        )

    def run(self) -> None:
        buffer = b""
        for chunk in self._stream.stream(amt=None):
            *lines, buffer = (buffer + chunk).split(b"\n")
            now = time.monotonic()
            for line in lines:
                job = json.loads(line)["object"]["metadata"]["labels"]["cra.dev/job"]
                self.seen.setdefault(job, now)
            if len(self.seen) >= self._expected:
                self.complete.set()
                return


def measure(cluster: Cluster) -> dict[str, float]:
    """Create the jobs one after another as fast as the API takes them; return seconds to first pod by job."""
    config.load_kube_config(str(cluster.kubeconfig))
    jobs = client.CustomObjectsApi()
    watcher = FirstPods(client.CoreV1Api(), JOBS)
    watcher.start()
    sent: dict[str, float] = {}
    for number in range(JOBS):
        name = f"job-{number:02d}"
        sent[name] = time.monotonic()
        jobs.create_namespaced_custom_object(
            "cra.dev", "v1alpha1", "default", "cratrainingjobs", job_manifest(name)
        )
    if not watcher.complete.wait(DEADLINE_SECONDS):
        raise SystemExit(f"only {len(watcher.seen)} of {JOBS} jobs had a pod after {DEADLINE_SECONDS:.0f} s")
    return {name: watcher.seen[name] - sent[name] for name in sent}


def main() -> None:
    nodes = [NodeSpec(name="gpu-0", gpus=JOBS, gpu_type="A100"), NodeSpec(name="cpu-0")]
    with Cluster.start("bench-apply-latency", nodes=nodes) as cluster:
        operator_chart.install(cluster)
        latencies = sorted(measure(cluster).values())
    p95 = statistics.quantiles(latencies, n=20)[-1]
    print(describe_machine(kopf=version("kopf")))
    print_table(
        ["jobs", "median s", "p95 s", "max s", "bar s"],
        [[str(JOBS), f"{statistics.median(latencies):.3f}", f"{p95:.3f}", f"{latencies[-1]:.3f}", "1.000"]],
    )
    print_figures(
        "apply_latency",
        {"first_pod_p95_seconds": p95, "first_pod_median_seconds": statistics.median(latencies)},
    )


if __name__ == "__main__":
    main()
