"""How long does training pause when two ranks join or leave, and what does it cost to be able to?

A model of ten million parameters trains on the CPU over gloo. On a session, two processes are joined by two
more, which leave again by SIGTERM, several times over; then the same on torchrun's elastic agents, whose
script saves a snapshot now and then. A pause is what the script itself saw: from rank 0's last step before
to its first one after.

The cost when nothing changes is measured on two processes: steps of bare DDP and of an elastic session in
turn.

    make bench NAME=resize_pause
"""

import copy
import os
import re
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks import paired, sides
from benchmarks.local_group import COMMON, LocalGroup
from benchmarks.report import describe_machine, print_figures, print_table
from benchmarks.scripts import task
from benchmarks.steps import pauses, redone, repeats
from benchmarks.torchrun_group import TUNING, TorchrunGroup

SMALL, LARGE = (0, 1), (2, 3)
ROUNDS, TORCHRUN_ROUNDS = 5, 3
SETTLE = 10  # steps at a size before the next change
IDLE_RANKS, IDLE_ROUNDS, WARM_UP = 2, 300, 20

CONFIG = {
    "training": {"batchSize": task.BATCH, "epochs": 10**6},
    "allocator": {"ranks": {"strategy": "uniform"}},
}


def with_session(directory: Path) -> tuple[list[float], list[float], int, str]:
    """Pauses of grows and of shrinks, steps repeated, and rank 0's log."""
    with LocalGroup("benchmarks.scripts.with_session", directory, config=CONFIG) as group:
        group.join(*SMALL)
        group.wait_size(2, steps=SETTLE)
        for _ in range(ROUNDS):
            group.join(*LARGE)
            group.wait_size(4, steps=SETTLE)
            group.wait_left(group.leave(*LARGE))
            group.wait_size(2, steps=SETTLE)
        lines, steps = group.leader.steps.lines, group.leader.steps.steps
        log = group.leader.output.read_text()
    return pauses(steps, 2, 4), pauses(steps, 4, 2), len(repeats(lines)), log


def with_torchrun(directory: Path) -> tuple[list[float], list[float], int]:
    """The same on torchrun's agents."""
    with TorchrunGroup("benchmarks.scripts.with_torchrun", directory, sizes=(2, 4)) as group:
        group.join(*SMALL)
        group.wait_size(2, steps=SETTLE)
        for _ in range(TORCHRUN_ROUNDS):
            group.join(*LARGE)
            group.wait_size(4, steps=SETTLE)
            group.leave(*LARGE)
            group.wait_size(2, steps=SETTLE)
        steps = group.steps
    return pauses(steps, 2, 4), pauses(steps, 4, 2), redone(steps)


def idle(rank: int, port: int, results: Any) -> None:
    """Bare DDP and an elastic session in turn, on one of two ranks; rank 0 reports the times."""
    os.environ |= COMMON | {
        "RANK": str(rank),
        "WORLD_SIZE": str(IDLE_RANKS),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    torch.set_num_threads(1)
    torch.manual_seed(0)
    membership, dataset, model = sides.membership(), task.make_dataset(), task.make_model()
    session = sides.make_session(membership, batch_size=task.BATCH, strategy="uniform")
    elastic = sides.with_session(session, dataset, copy.deepcopy(model))
    next(elastic)  # forms the group
    turns = {"bare DDP": sides.bare_ddp(dataset, model, batch_size=task.BATCH), "session": elastic}
    times = paired.take_turns(turns, rounds=IDLE_ROUNDS, warm_up=WARM_UP)
    if rank == 0:
        results.put(times)
    membership.finish()


def said(log: str) -> list[float]:
    """The pauses that the trainer itself tells of."""
    return [float(seconds) for seconds in re.findall(r"resized from .*: paused ([\d.]+) s", log)]


def row(name: str, change: str, seconds: Sequence[float]) -> tuple[str, ...]:
    return (
        name,
        change,
        str(len(seconds)),
        f"{statistics.median(seconds):.2f}",
        f"{max(seconds):.2f}",
    )


def main() -> None:
    print(describe_machine(torch=torch.__version__))
    print(f"{TUNING}; load {os.getloadavg()[0]:.1f}\n")
    with tempfile.TemporaryDirectory(prefix="resize-pause-") as scratch:
        grows, shrinks, repeated, log = with_session(Path(scratch) / "session")
        torchrun_grows, torchrun_shrinks, torchrun_repeated = with_torchrun(Path(scratch) / "torchrun")
    times = paired.run_ranks(idle, ranks=IDLE_RANKS)
    print_table(
        ("training", "change", "times", "pause, median s", "worst s"),
        (
            row("session", "2 to 4", grows),
            row("session", "4 to 2", shrinks),
            row("torchrun", "2 to 4", torchrun_grows),
            row("torchrun", "4 to 2", torchrun_shrinks),
        ),
    )
    own = said(log)
    print(f"\nas the trainer itself says: {', '.join(f'{seconds:.2f}' for seconds in own)} s")
    print(f"steps repeated: session {repeated}, torchrun {torchrun_repeated}\n")
    print(f"nothing changes, {IDLE_RANKS} processes, {IDLE_ROUNDS} rounds of one step each:")
    print_table(paired.HEADER, paired.rows(times, "bare DDP"))
    print()
    print_figures(
        "resize_pause",
        {
            "grow_pause_seconds": statistics.median(grows),
            "shrink_pause_seconds": statistics.median(shrinks),
            "worst_grow_pause_seconds": max(grows),
            "worst_shrink_pause_seconds": max(shrinks),
            "steps_repeated": repeated,
            "torchrun_grow_seconds": statistics.median(torchrun_grows),
            "torchrun_shrink_seconds": statistics.median(torchrun_shrinks),
            "idle_cost_percent": paired.overhead(times["session"], times["bare DDP"]).median,
        },
    )


if __name__ == "__main__":
    main()
