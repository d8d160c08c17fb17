"""How long does the operator's controller take to decide about all jobs, and how much memory does it need?

One tick from the jobs' statuses to a target for each: facts, counting the cluster, models of speed fitted
anew where a measurement moved, the policy, guard and sharing. Between two ticks every job makes progress, a
few percent of them have new measurements, and targets are carried out. Some jobs wait.

    make bench NAME=decision_latency
"""

import gc
import os
import resource
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np

from benchmarks.report import describe_machine, print_figures, print_table
from cra_operator.api import Job, JobKey
from cra_operator.config import Config
from cra_operator.controller.policies import POLICIES
from cra_operator.controller.target import Target
from cra_operator.runtime.controller import Judge, Scene
from cra_operator.view import NodeView, PodView

START = datetime(2026, 1, 1, tzinfo=UTC)
TICK = timedelta(seconds=15)
TICKS, WARM_UP = 120, 5
NODE_GPUS = 8
MEASURED_ANEW = 0.05
SIZES = (("64 GPUs", 64, 24), ("4,096 GPUs", 4096, 1000))
CANDIDATES = ("goodput", "attention")


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Milliseconds of each tick, by the clock and of CPU, and how many sizes changed."""

    milliseconds: Sequence[float]
    cpu: Sequence[float]
    moves: int


class Cluster:
    """Jobs that train on simulated numbers, as their statuses would tell."""

    def __init__(self, gpus: int, jobs: int) -> None:
        self.random = np.random.default_rng(0)
        self.now = START
        names = [f"n{i}" for i in range(gpus // NODE_GPUS)]
        self.nodes = {name: NodeView(name=name, gpus=NODE_GPUS, gpu_type="A100") for name in names}
        self.jobs = [self._job(number) for number in range(jobs)]

    def scene(self) -> Scene:
        """What the controller would see now."""
        pods = [pod for job in self.jobs for pod in self._pods(job)]
        for pod, node in zip(pods, (name for name in self.nodes for _ in range(NODE_GPUS)), strict=False):
            object.__setattr__(pod, "node", node)
        return Scene(
            jobs=self.jobs,
            priorities={job.key: 100 * (number % 50 == 0) for number, job in enumerate(self.jobs)},
            pods=pods,
            nodes=self.nodes,
            limits={},
            now=self.now,
        )

    def advance(self, targets: dict[JobKey, Target]) -> int:
        """Time passes: jobs train, measurements come in, targets are carried out; returns how many were."""
        self.now += TICK
        before = [job.status.desired_gpus for job in self.jobs]
        self.jobs = [self._later(job, targets[job.key]) for job in self.jobs]
        return sum(job.status.desired_gpus != gpus for job, gpus in zip(self.jobs, before, strict=True))

    def _job(self, number: int) -> Job:
        waits = number % 20 == 19
        gpus = 0 if waits else int(self.random.integers(1, 4))
        seconds, overhead = float(self.random.uniform(0.1, 2.0)), float(self.random.uniform(0.01, 0.1))
        speeds = [
            {
                "gpus": size,
                "nodes": 1,
                "gpuType": "A100",
                "batchSize": 256,
                "stepSeconds": seconds / size + overhead,
                "time": START,
            }
            for size in range(1, gpus + 1)
        ]
        ratio = float(self.random.uniform(0.05, 0.6))
        status = {
            "phase": "Pending" if waits else "Running",
            "desiredGPUs": gpus or 1,
            "run": {"gpus": gpus},
            "speeds": speeds,
            "gpuSeconds": 600.0 * gpus,
            "startTime": START - timedelta(hours=1),
            "runningTime": START - timedelta(minutes=59),
            "pauseSeconds": 1.0,
            "progress": {"ratio": ratio, "samples": int(1e6 * ratio), "etaSeconds": 3600 * (1 - ratio)},
            "conditions": [
                {
                    "type": "MetricsAvailable",
                    "status": "True",
                    "reason": "Fresh",
                    "lastTransitionTime": START,
                }
            ],
        }
        return Job.model_validate(
            {
                "metadata": {
                    "name": f"job-{number}",
                    "namespace": f"team-{number % 10}",
                    "uid": str(number),
                    "creationTimestamp": START - timedelta(hours=1, seconds=number),
                },
                "spec": {
                    "workload": {"name": "digits-cnn"},
                    "scaling": {"minGPUs": 1, "maxGPUs": 64},
                    "training": {"batchSize": 256},
                },
                "status": {} if waits else status,
            }
        )

    def _pods(self, job: Job) -> list[PodView]:
        namespace, name = job.key
        run = job.status.run
        return [
            PodView(
                namespace=namespace,
                name=f"{name}-{rank}",
                job=name,
                gpus=1,
                node="",
                phase="Running",
                created=START,
            )
            for rank in range((run.gpus or 0) if run is not None else 0)
        ]

    def _later(self, job: Job, target: Target) -> Job:
        status = job.status
        if status.phase != "Running" or status.progress is None or status.run is None:
            return job
        gpus = target.gpus or status.run.gpus or 1
        ratio = min(0.99, (status.progress.ratio or 0.0) + 0.0005)
        update = {"samples": int(1e6 * ratio), "ratio": ratio, "eta_seconds": 3600 * (1 - ratio)}
        speeds = status.speeds
        if speeds and self.random.random() < MEASURED_ANEW:
            noise = float(self.random.uniform(0.9, 1.1))
            last = speeds[-1].model_copy(
                update={"gpus": gpus, "step_seconds": speeds[-1].step_seconds * noise}
            )
            speeds = [*(speed for speed in speeds if speed.gpus != gpus), last]
        return job.model_copy(
            update={
                "status": status.model_copy(
                    update={
                        "progress": status.progress.model_copy(update=update),
                        "speeds": speeds,
                        "desired_gpus": gpus,
                        "run": status.run.model_copy(update={"gpus": gpus}),
                        "gpu_seconds": (status.gpu_seconds or 0.0) + gpus * TICK.total_seconds(),
                    }
                )
            }
        )


def measure(policy: str, gpus: int, jobs: int) -> Measured:
    """Ticks of one policy on one cluster."""
    cluster = Cluster(gpus, jobs)
    judge = Judge(Config(trainer_image="-", pod_name="-", policy=policy))  # type: ignore[arg-type]
    times, cpu, moves = [], [], 0
    for _ in range(WARM_UP + TICKS):
        scene = cluster.scene()
        began, burnt = time.perf_counter(), time.process_time()
        outcome = judge.decide(scene)
        times.append(1000 * (time.perf_counter() - began))
        cpu.append(1000 * (time.process_time() - burnt))
        if outcome.troubles:
            raise SystemExit(f"policies failed: {outcome.troubles}")
        moves += cluster.advance(dict(outcome.targets))
    return Measured(milliseconds=times[WARM_UP:], cpu=cpu[WARM_UP:], moves=moves)


def main() -> None:
    print(describe_machine(numpy=np.__version__))
    gc.collect()
    gc.freeze()  # as the operator does, once it is loaded
    worst: dict[str, float] = {}
    rows = []
    for name, gpus, jobs in SIZES:
        for policy in (policy for policy in CANDIDATES if policy in POLICIES):
            measured = measure(policy, gpus, jobs)
            median, p99 = np.percentile(measured.milliseconds, (50, 99))
            worst[name] = max(worst.get(name, 0.0), float(p99))
            burnt = float(np.median(measured.cpu))
            figures = (f"{figure:.1f}" for figure in (median, p99, burnt))
            rows.append((name, str(jobs), policy, *figures, str(measured.moves)))
    print_table(("cluster", "jobs", "policy", "median ms", "p99 ms", "CPU ms", "moves"), rows)
    rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"load {os.getloadavg()[0]:.1f}; {TICKS} ticks each; largest resident size {rss:.0f} MB\n")
    print_figures(
        "decision_latency",
        {
            "p99_ms_64_gpus": worst["64 GPUs"],
            "p99_ms_1000_jobs_4096_gpus": worst["4,096 GPUs"],
            "rss_mb": rss,
        },
    )


if __name__ == "__main__":
    main()
