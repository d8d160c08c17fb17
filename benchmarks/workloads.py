"""Does every built-in workload train to a good accuracy, run by the operator on a cluster?

All examples of built-in workloads are applied at once to an embedded cluster with two GPUs of one core each,
so they queue for them. When the first job on the digits is done, inference reads its checkpoint; when the
first part of continual training is, the second goes on from it. Told is what each job's status says at last.

    make bench NAME=workloads
"""

import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from benchmarks.report import describe_machine, print_figures, print_table
from e2e import operator_chart
from e2e.local import Cluster, NodeSpec
from e2e.reach import Job, Reach

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
AT_ONCE = (
    "digits-cnn", "continual", "attention-28x28", "rnn-signal", "fine-tune", "multi-task", "char-transformer"
)  # fmt: skip
DEADLINE_SECONDS = 600.0


def jobs_of(example: str) -> list[dict[str, Any]]:
    """The training jobs of an example."""
    documents = yaml.safe_load_all((EXAMPLES / f"{example}.yaml").read_text())
    return [document for document in documents if document["kind"] == "CRATrainingJob"]


def run(reach: Reach) -> list[Job]:
    """Run all examples; returns the finished jobs."""
    ends = time.monotonic() + DEADLINE_SECONDS

    def finished(name: str) -> Job:
        return reach.wait_finished(name, timeout=max(1.0, ends - time.monotonic()))

    for example in AT_ONCE:
        reach.kubectl("apply", "-f", str(EXAMPLES / f"{example}.yaml"))
    done = {"digits-cnn": finished("digits-cnn")}
    reach.kubectl("apply", "-f", str(EXAMPLES / "infer.yaml"))
    done["continual-first"] = finished("continual-first")
    resume = '{"spec": {"suspend": false}}'
    reach.kubectl("patch", "crj", "continual-later", "--type", "merge", "-p", resume)
    for example in (*AT_ONCE, "infer"):
        for job in jobs_of(example):
            name = job["metadata"]["name"]
            if name not in done:
                done[name] = finished(name)
    return list(done.values())


def row(job: Job) -> list[str]:
    """One line of the table."""
    status = job["status"]
    result = status.get("result", {})
    classes = result.get("classes", [])
    f1 = sum(one["f1"] for one in classes) / len(classes) if classes else None
    return [
        job["metadata"]["name"],
        job["spec"]["workload"]["name"],
        status["phase"],
        str(result.get("samples", "")),
        f"{result.get('seconds', 0.0):.1f}",
        f"{result.get('metrics', {}).get('accuracy', 0.0):.4f}",
        "" if f1 is None else f"{f1:.4f}",
    ]


def main() -> None:
    started = time.monotonic()
    nodes = [NodeSpec(name="gpu-0", gpus=2, gpu_type="H100"), NodeSpec(name="cpu-0")]
    with Cluster.start("bench-workloads", nodes=nodes) as cluster:
        operator_chart.install(cluster)
        jobs = run(Reach.of(cluster))
    failed = [job["metadata"]["name"] for job in jobs if job["status"]["phase"] != "Succeeded"]
    print(describe_machine(torch=version("torch")))
    print_table(
        ["job", "workload", "phase", "samples", "seconds", "accuracy", "mean F1"], [row(job) for job in jobs]
    )
    figures = {
        f"accuracy_{job['metadata']['name'].replace('-', '_')}": job["status"]["result"]["metrics"][
            "accuracy"
        ]
        for job in jobs
        if "metrics" in job["status"].get("result", {})
    }
    print_figures("workloads", figures | {"wall_seconds": time.monotonic() - started})
    if failed:
        raise SystemExit(f"these jobs did not succeed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
