"""How long does a decision take, and an episode of the simulator?

The default policy decides, again and again, for clusters in the middle of their work: 64 GPUs with 60 jobs
and 2,048 GPUs with 1,000 jobs, a few of which come, go and age between two looks. Pollux's objective and the
rule without training stand beside it, and an episode of 160 jobs under Pollux tells what the simulator costs.
Everything is CPU time, so that a busy machine does not count.

    make bench NAME=policy_latency
"""

from __future__ import annotations

import time
from collections.abc import Generator
from importlib.metadata import version
from statistics import median

import numpy as np

from benchmarks.report import describe_machine, print_figures, print_table
from cra_operator.controller.policies import make
from cra_operator.controller.policy import ClusterObservation, Ints, Policy
from cra_simulator.cluster import POLLUX_CLUSTER, Cluster, NodePool
from cra_simulator.comparison import Setting, run
from cra_simulator.schedulers import SCHEDULERS
from cra_simulator.shipped import shipped_workloads

DEFAULT = "attention"
LOOKS = 200
WARM_UP = 5
CASES = {
    "64_gpus": (POLLUX_CLUSTER, 60),
    "2048_gpus_1000_jobs": (Cluster((NodePool(kind="t4", nodes=256, gpus=8),)), 1000),
}


def observations(cluster: Cluster, jobs: int, seed: int = 0) -> Generator[ClusterObservation, Ints, None]:
    """Looks at a cluster, a minute apart; takes each job's size as the answer.

    Speed-ups follow k / (1 + c * (k - 1)), with another c for each job; work spans four decades.
    """
    random = np.random.default_rng(seed)
    sizes = cluster.packed_sizes()
    ids = np.arange(jobs)
    serial = random.uniform(0.02, 0.5, jobs)
    remaining = random.lognormal(8, 2, jobs)
    age, attained = random.uniform(0, 36_000, jobs), random.uniform(0, 1e5, jobs)
    current = np.zeros(jobs, dtype=np.int64)
    for look in range(WARM_UP + LOOKS):
        come = random.random(jobs) < 0.02
        ids = np.where(come, ids.max() + 1 + np.arange(jobs), ids)
        order = np.argsort(ids)
        ids, serial, come = ids[order], serial[order], come[order]
        remaining = np.where(come, random.lognormal(8, 2, jobs), remaining[order] * 0.98)
        age, attained = (np.where(come, 0.0, past[order] + 60) for past in (age, attained))
        current = np.where(come, 0, current[order])
        gpus = sizes.gpus[None, :]
        rate = np.where(gpus > 0, gpus / (1 + serial[:, None] * np.maximum(gpus - 1, 0)), 0.0)
        seen = ClusterObservation(
            time=60.0 * look, capacity=cluster.capacity, node_gpus=cluster.node_gpus, sizes=sizes, ids=ids,
            rate=rate, throughput=rate, remaining=remaining, steps_left=remaining, age=age, attained=attained,
            restarts=(age // 3600).astype(np.int64), restart_seconds=np.full(jobs, 30.0),
            pause_left=np.zeros(jobs), current=current, limit=np.full(jobs, 64),
            request=np.ones(jobs, dtype=np.int64), priority=np.zeros(jobs),
        )  # fmt: skip
        current = yield seen


def milliseconds(policy: Policy, cluster: Cluster, jobs: int) -> list[float]:
    """CPU time of each decision."""
    taken: list[float] = []
    looks = observations(cluster, jobs)
    seen = next(looks)
    while len(taken) < WARM_UP + LOOKS - 1:
        started = time.process_time()
        decision = policy.decide(seen)
        taken.append((time.process_time() - started) * 1000)
        seen = looks.send(decision.choice)
    return taken[WARM_UP:]


def main() -> None:
    """Time all, print the table."""
    print(describe_machine(numpy=version("numpy"), numba=version("numba")))
    rows, figures = [], {}
    for case, (cluster, jobs) in CASES.items():
        for name in ("pollux", "goodput", DEFAULT):
            policy = make(name) if name != "pollux" else SCHEDULERS[name].make()
            taken = milliseconds(policy, cluster, jobs)
            p99 = float(np.percentile(taken, 99))
            if name == DEFAULT:
                figures[f"p99_ms_{case}"] = p99
            rows.append([case.replace("_", " "), name, f"{median(taken):.2f}", f"{p99:.2f}"])
    print_table(["cluster", "policy", "median, ms", "p99, ms"], rows)
    workloads = shipped_workloads(1.0)
    run(*next(iter(workloads.items())), "pollux", Setting())
    episodes = [run(name, jobs, "pollux", Setting()).cpu_seconds * 1000 for name, jobs in workloads.items()]
    figures["episode_ms"] = median(episodes)
    print(f"an episode of 160 jobs under Pollux: {figures['episode_ms']:.1f} ms")
    print_figures("policy_latency", figures)


if __name__ == "__main__":
    main()
