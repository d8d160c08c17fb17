"""How long is training held up when one rank of four is killed, and how much of it is done again?

A model of ten million parameters trains on the CPU over gloo. Again and again one rank, never rank 0, gets
SIGKILL; the others go on, and another process takes the place. On torchrun's elastic agents the agent is
killed with its worker, as a pod is. Recovery is what the script itself saw: from rank 0's last step before
the kill to its first one after.

    make bench NAME=crash_recovery
"""

import itertools
import os
import random
import statistics
import tempfile
from pathlib import Path

import torch

from benchmarks.local_group import LocalGroup
from benchmarks.report import describe_machine, print_figures, print_table
from benchmarks.resize_pause import CONFIG
from benchmarks.steps import pauses, redone, repeats
from benchmarks.torchrun_group import TUNING, TorchrunGroup

RANKS = 4
KILLS, TORCHRUN_KILLS = 6, 3
SETTLE = 10  # steps at full size before the next kill


def with_session(directory: Path) -> tuple[list[float], list[int], int]:
    """Seconds of each recovery, batches repeated after each kill, how many of those were applied twice."""
    choose = random.Random(4)
    with LocalGroup("benchmarks.scripts.with_session", directory, config=CONFIG) as group:
        group.join(*range(RANKS))
        again = [0]
        for _ in range(KILLS):
            group.wait_size(RANKS, steps=SETTLE)
            lost = choose.randrange(1, RANKS)
            group.kill(lost)
            group.wait_size(RANKS - 1, steps=SETTLE)
            again.append(len(repeats(group.leader.steps.lines)))
            group.join(lost)
        group.wait_size(RANKS, steps=SETTLE)
        found, steps = repeats(group.leader.steps.lines), group.leader.steps.steps
    each = [after - before for before, after in itertools.pairwise(again)]
    return pauses(steps, RANKS, RANKS - 1), each, sum(one.applied for one in found)


def with_torchrun(directory: Path) -> tuple[list[float], int]:
    """Seconds of each recovery and all steps that were taken again."""
    with TorchrunGroup("benchmarks.scripts.with_torchrun", directory, sizes=(2, RANKS)) as group:
        group.join(*range(RANKS))
        for lost in (1, 2, 3)[:TORCHRUN_KILLS]:
            group.wait_size(RANKS, steps=SETTLE)
            group.kill(lost)
            group.wait_size(RANKS - 1, steps=SETTLE)
            group.join(lost)
        steps = group.steps
    return pauses(steps, RANKS, RANKS - 1), redone(steps)


def main() -> None:
    print(describe_machine(torch=torch.__version__))
    print(f"{TUNING}; load {os.getloadavg()[0]:.1f}\n")
    with tempfile.TemporaryDirectory(prefix="crash-recovery-") as scratch:
        seconds, repeated, applied = with_session(Path(scratch) / "session")
        torchrun_seconds, torchrun_repeated = with_torchrun(Path(scratch) / "torchrun")
    print_table(
        ("training", "kills", "recovery, median s", "worst s", "steps repeated", "of them applied twice"),
        (
            (
                "session",
                str(len(seconds)),
                f"{statistics.median(seconds):.2f}",
                f"{max(seconds):.2f}",
                f"{sum(repeated)} in all, at most {max(repeated)} a kill",
                str(applied),
            ),
            (
                "torchrun",
                str(len(torchrun_seconds)),
                f"{statistics.median(torchrun_seconds):.2f}",
                f"{max(torchrun_seconds):.2f}",
                f"{torchrun_repeated} in all",
                str(torchrun_repeated),
            ),
        ),
    )
    print_figures(
        "crash_recovery",
        {
            "recovery_seconds": statistics.median(seconds),
            "worst_recovery_seconds": max(seconds),
            "steps_repeated": max(repeated),
            "torchrun_recovery_seconds": statistics.median(torchrun_seconds),
        },
    )


if __name__ == "__main__":
    main()
