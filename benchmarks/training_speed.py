"""How many episodes does a learner get for an hour of CPU?

Episodes of the training worlds, as `cra_simulator.learning.evolution` plays them: any load, network and
solver included, on one core. Beside them an episode of 160 jobs under the shipped attention policy, in
compiled code and as `simulate` runs it.

    make bench NAME=training_speed
"""

from __future__ import annotations

import time
from importlib.metadata import version
from statistics import median

from benchmarks.report import describe_machine, print_figures, print_table
from cra_operator.controller.policies.attention import Attention
from cra_operator.controller.policies.store import load_network
from cra_simulator import data
from cra_simulator.cluster import POLLUX_CLUSTER
from cra_simulator.learning.recipes import RULE
from cra_simulator.learning.score import episode
from cra_simulator.learning.worlds import Worlds, pollux_curriculum
from cra_simulator.rates import read_rate_tables
from cra_simulator.simulation import simulate
from cra_simulator.workload import read_workload

EPISODES = 100
REPEATS = 5


def main() -> None:
    """Measure, print."""
    print(describe_machine(numpy=version("numpy"), numba=version("numba")))
    curriculum, weights = pollux_curriculum(), load_network("attention").weights
    rates = read_rate_tables(data.rate_tables())
    jobs = read_workload(data.training_workloads(1.0)[-1])
    world = Worlds(rates, POLLUX_CLUSTER).world(jobs)
    # The first call waits for the compiler.
    episode(world, weights, RULE)

    started = time.process_time()
    for seed in range(EPISODES):
        episode(curriculum.draw(seed), weights, RULE)
    per_hour = EPISODES * 3600 / (time.process_time() - started)

    compiled, plain = [], []
    for _ in range(REPEATS):
        started = time.process_time()
        episode(world, weights, RULE)
        compiled.append((time.process_time() - started) * 1000)
        started = time.process_time()
        simulate(jobs, rates, POLLUX_CLUSTER, Attention())
        plain.append((time.process_time() - started) * 1000)
    print_table(
        ["what", "CPU"],
        [
            ["episodes of training worlds, per hour", f"{per_hour:.0f}"],
            ["160 jobs, compiled, ms", f"{median(compiled):.1f}"],
            ["160 jobs, by simulate, ms", f"{median(plain):.1f}"],
        ],
    )
    print_figures(
        "training_speed",
        {
            "episodes_per_cpu_hour": per_hour,
            "compiled_episode_ms": median(compiled),
            "simulated_episode_ms": median(plain),
        },
    )


if __name__ == "__main__":
    main()
