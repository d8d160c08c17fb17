"""Ten jobs arrive over time on 16 simulated GPUs of two types: what does deciding their sizes bring?

The same jobs arrive at the same times three times over, on a real control plane, with real metrics and real
training: decided by the controller; with static equal shares; and in a queue at the sizes that their owners
asked for. When they come, how long they train and what owners ask for is drawn once, from a fixed seed: one a
minute, most of them short and some long, 2, 4 or 8 GPUs. A job's completion time is from its creation to its
end, waiting included. Utilization is that of all GPUs, from the first arrival to the last end.

    make bench NAME=cluster_jct    # 50 minutes

NB: simulated GPUs are shares of this machine's cores. The figures hold for a machine that does nothing else.
"""

import json
import os
import random
import statistics
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from importlib.metadata import version
from itertools import pairwise
from typing import Any

import yaml

from benchmarks.report import describe_machine, print_figures, print_table
from e2e import operator_chart
from e2e.local import Cluster, GpuType, NodeSpec
from e2e.reach import Job, Reach

GPU_TYPES = {
    "A100": GpuType(product="NVIDIA-A100-SIM", core_share=0.09, memory_mib=40960),
    "T4": GpuType(product="NVIDIA-T4-SIM", core_share=0.045, memory_mib=16384),
}
NODES = (
    NodeSpec(name="gpu-a-0", gpus=8, gpu_type="A100"),
    NodeSpec(name="gpu-b-0", gpus=8, gpu_type="T4"),
    NodeSpec(name="cpu-0"),
)
GPUS = 16
WORKER_GPUS = 4
"""Half a node: starting a pod costs the machine seconds that it does not have for the simulated GPUs."""
POLICY = "goodput"
COOLDOWN = 8
SHARE = 4
"""GPUs of every job where shares are equal, enough for four jobs; and the least that the controller gives."""
SIDES = ("controller", "equal shares", "queue")
LIMIT = 1800.0
WIDTH, BATCH = 64, 360
"""Of the network, and of its steps, four to an epoch: what a simulated GPU computes has to outweigh what a
step costs the machine beside it."""
JOBS, SEED = 10, 0
EVERY_SECONDS, MEAN_EPOCHS, SPREAD = 70.0, 12.0, 1.0
"""Mean time between arrivals, mean length, and the deviation of its logarithm."""
REQUESTS = (2, 4, 8)


@dataclass(frozen=True, kw_only=True)
class Arrival:
    """A job: seconds after the first one, epochs of training, and the GPUs that its owner asks for."""

    at: float
    epochs: int
    request: int


def arrivals() -> list[Arrival]:
    """The jobs: a Poisson process, lengths of a lognormal distribution."""
    draws, at, jobs = random.Random(SEED), 0.0, []
    for _ in range(JOBS):
        epochs = max(1, round(MEAN_EPOCHS * draws.lognormvariate(-(SPREAD**2) / 2, SPREAD)))
        jobs.append(Arrival(at=at, epochs=epochs, request=draws.choice(REQUESTS)))
        at += draws.expovariate(1 / EVERY_SECONDS)
    return jobs


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Seconds from creation to end by job, mean utilization of all GPUs, and moves made and undone."""

    seconds: Sequence[float]
    utilization: float
    moves: int
    undone: int

    @property
    def jct(self) -> float:
        """Mean completion time."""
        return statistics.fmean(self.seconds)


def scaling(side: str, arrival: Arrival) -> dict[str, Any]:
    """How the size of a job is set on each side."""
    common = {"cooldownSeconds": COOLDOWN}
    if side == "controller":
        decided = {"minGPUs": SHARE, "maxGPUs": GPUS, "gpusPerWorker": WORKER_GPUS, "policy": POLICY}
        return common | decided
    size = SHARE if side == "equal shares" else arrival.request
    each = min(WORKER_GPUS, size)
    return common | {"minGPUs": size, "maxGPUs": size, "gpusPerWorker": each, "policy": "static"}


def manifest(name: str, side: str, arrival: Arrival) -> dict[str, Any]:
    """A training of the digits."""
    return {
        "apiVersion": "cra.dev/v1alpha1",
        "kind": "CRATrainingJob",
        "metadata": {"name": name},
        "spec": {
            "workload": {"name": "digits-cnn", "parameters": {"width": str(WIDTH)}},
            "scaling": scaling(side, arrival),
            "training": {"epochs": arrival.epochs, "batchSize": BATCH},
        },
    }


def play(cluster: Cluster, reach: Reach, side: str) -> Measured:
    """Let the jobs arrive, and wait until all have ended."""
    namespace = side.replace(" ", "-")
    reach.kubectl("create", "namespace", namespace)
    reach.kubectl("wait", "--for=create", "-n", namespace, "serviceaccount/default", "--timeout=30s")
    began, first = time.monotonic(), time.time()
    for number, arrival in enumerate(arrivals()):
        time.sleep(max(0.0, began + arrival.at - time.monotonic()))
        job = yaml.safe_dump(manifest(f"job-{number}", side, arrival))
        reach.kubectl("apply", "-n", namespace, "-f", "-", stdin=job)
    jobs = []
    for number in range(JOBS):
        left = max(1.0, began + LIMIT - time.monotonic())
        jobs.append(reach.wait_finished(f"job-{number}", namespace=namespace, timeout=left))
    failed = [job["metadata"]["name"] for job in jobs if job["status"]["phase"] != "Succeeded"]
    if failed:
        raise SystemExit(f"{side}: {', '.join(failed)} did not succeed")
    measured = Measured(
        seconds=[_seconds(job) for job in jobs],
        utilization=utilization(cluster.prometheus_url, first, time.time()),
        moves=sum(job["status"].get("rescales", 0) for job in jobs),
        undone=sum(undone(job) for job in jobs),
    )
    reach.kubectl("delete", "crj", "-n", namespace, "--all", "--wait=true")
    return measured


def undone(job: Job) -> int:
    """Changes of a job that were taken back within its cool-down."""
    made = [d for d in job["status"].get("decisions", []) if d.get("applied")]
    back = 0
    for before, after in pairwise(made):
        reverse = (before["to"] - before["from"]) * (after["to"] - after["from"]) < 0
        back += reverse and _time(after["time"]) - _time(before["time"]) < timedelta(seconds=COOLDOWN)
    return back


def utilization(prometheus: str, first: float, last: float) -> float:
    """Mean part of all GPUs that was busy."""
    query = urllib.parse.urlencode(
        {"query": "sum(DCGM_FI_DEV_GPU_UTIL)", "start": first, "end": last, "step": "1s"}
    )
    with urllib.request.urlopen(f"{prometheus}/api/v1/query_range?{query}", timeout=30) as answer:
        (series,) = json.load(answer)["data"]["result"]
    return statistics.fmean(float(value) for _, value in series["values"]) / 100 / GPUS


def _seconds(job: Mapping[str, Any]) -> float:
    end = _time(job["status"]["completionTime"]) - _time(job["metadata"]["creationTimestamp"])
    return end.total_seconds()


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)


def main() -> None:
    print(describe_machine(torch=version("torch")))
    print(f"load {os.getloadavg()[0]:.1f}\n")
    found: dict[str, Measured] = {}
    with Cluster.start("bench-cluster-jct", nodes=NODES, gpu_types=GPU_TYPES) as cluster:
        reach = Reach.of(cluster)
        operator_chart.install(
            reach,
            "observe.intervalSeconds=1",
            "controller.warmUpSeconds=3",
            "controller.hysteresisPercent=10",
        )
        for side in SIDES:
            found[side] = play(cluster, reach, side)
            print(f"{side}: {', '.join(f'{s:.0f}' for s in found[side].seconds)} s", file=sys.stderr)
    rows = [
        (side, f"{m.jct:.0f}", f"{max(m.seconds):.0f}", f"{m.utilization:.0%}", str(m.moves), str(m.undone))
        for side, m in found.items()
    ]
    print_table(("sizes", "mean JCT s", "longest s", "utilization", "changes", "undone"), rows)
    print(f"load {os.getloadavg()[0]:.1f}\n")
    ours, equal, queue = (found[side] for side in SIDES)
    print_figures(
        "cluster_jct",
        {
            "jct_over_static": ours.jct / equal.jct,
            "jct_over_queue": ours.jct / queue.jct,
            "utilisation_over_static": ours.utilization / equal.utilization,
            "undone_moves": ours.undone,
        },
    )


if __name__ == "__main__":
    main()
