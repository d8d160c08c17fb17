"""How long does training pause when two ranks join or leave, and what does it cost to be able to?

A model of ten million parameters trains on the CPU over gloo. On a session, two processes are joined by two
more, which leave again by SIGTERM, several times over; then the same on torchrun's elastic agents, whose
script saves a snapshot now and then. A pause is what the script itself saw: from rank 0's last step before
to its first one after.

The cost when nothing changes is measured on two processes: steps of bare DDP and of an elastic session in
turn.

    make bench NAME=resize_pause
"""

import os
import re
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import TensorDataset

from benchmarks import paired, sides
from benchmarks.local_group import COMMON, LocalGroup
from benchmarks.paired import Clock
from benchmarks.report import describe_machine, print_figures, print_table
from benchmarks.scripts import task
from benchmarks.steps import Line, pauses, redone, repeats, step_seconds
from benchmarks.torchrun_group import TUNING, TorchrunGroup

SMALL, LARGE = (0, 1), (2, 3)
ROUNDS, TORCHRUN_ROUNDS = 5, 3
SETTLE = 10  # steps at a size before the next change
IDLE_RANKS, IDLE_RUNS, IDLE_ROUNDS, WARM_UP = 2, 8, 112, 20

CONFIG = {
    "training": {"batchSize": task.BATCH, "epochs": 10**6},
    "allocator": {"ranks": {"strategy": "uniform"}},
}


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Seconds of each pause, median seconds of a step after it, and the number of steps repeated."""

    grows: list[float]
    shrinks: list[float]
    small_step: float
    large_step: float
    repeated: int

    @classmethod
    def of(cls, steps: Sequence[Line], repeated: int) -> "Measured":
        """From the steps of rank 0."""
        return cls(
            grows=pauses(steps, 2, 4),
            shrinks=pauses(steps, 4, 2),
            small_step=step_seconds(steps, 2),
            large_step=step_seconds(steps, 4),
            repeated=repeated,
        )

    def rows(self, name: str) -> list[tuple[str, ...]]:
        """The part of the table."""
        return [
            _row(name, "2 to 4", self.grows, self.large_step),
            _row(name, "4 to 2", self.shrinks, self.small_step),
        ]


def _row(name: str, change: str, seconds: Sequence[float], step: float) -> tuple[str, ...]:
    median, worst = statistics.median(seconds), max(seconds)
    return name, change, str(len(seconds)), f"{median:.2f}", f"{worst:.2f}", f"{step:.2f}"


def with_session(directory: Path) -> tuple[Measured, str]:
    """What the session's group came to, and rank 0's log."""
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
    return Measured.of(steps, len(repeats(lines))), log


def with_torchrun(directory: Path) -> Measured:
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
    return Measured.of(steps, redone(steps))


def idle(session_first: bool, rank: int, port: int, results: Any) -> None:
    """Bare DDP and an elastic session in turn, on one of two ranks; rank 0 reports the times.

    Both train one model with one optimizer, so that no side's memory lies better.
    """
    os.environ |= COMMON
    membership, model = sides.membership(rank, port, ranks=IDLE_RANKS), task.make_model()
    dataset = TensorDataset(*task.make_dataset().tensors[:2])
    optimizer = torch.optim.Adam(model.parameters())
    session = sides.make_session(membership, batch_size=task.BATCH, strategy="uniform")
    elastic = sides.with_session(session, dataset, model, optimizer)
    next(elastic)  # forms the group
    turns = {
        "bare DDP": sides.bare_ddp(dataset, model, optimizer, batch_size=task.BATCH),
        "session": elastic,
    }
    order = reversed(turns) if session_first else turns
    times = paired.take_turns({name: turns[name] for name in order}, rounds=IDLE_ROUNDS, warm_up=WARM_UP)
    if rank == 0:
        results.put(times)
    membership.finish()


def said(log: str) -> list[float]:
    """The pauses that the trainer itself tells of."""
    return [float(seconds) for seconds in re.findall(r"resized from .*: paused ([\d.]+) s", log)]


def main() -> None:
    print(describe_machine(torch=torch.__version__))
    print(f"{TUNING}; load {os.getloadavg()[0]:.1f}\n")
    with tempfile.TemporaryDirectory(prefix="resize-pause-") as scratch:
        session, log = with_session(Path(scratch) / "session")
        torchrun = with_torchrun(Path(scratch) / "torchrun")
    runs = [paired.run_ranks(partial(idle, bool(run % 2)), ranks=IDLE_RANKS) for run in range(IDLE_RUNS)]
    times = {side: [pair for run in runs for pair in run[side]] for side in runs[0]}
    cost, error = paired.mean_overhead(runs, "session", "bare DDP", Clock.WALL)
    cpu_cost, cpu_error = paired.mean_overhead(runs, "session", "bare DDP", Clock.CPU)
    print_table(
        ("training", "change", "times", "pause, median s", "worst s", "of it a step s"),
        [*session.rows("session"), *torchrun.rows("torchrun")],
    )
    print(f"\nas the trainer says, less a step: {', '.join(f'{seconds:.2f}' for seconds in said(log))} s")
    print(f"steps repeated: session {session.repeated}, torchrun {torchrun.repeated}\n")
    print(
        f"nothing changes, {IDLE_RANKS} processes, {IDLE_RUNS} times {IDLE_ROUNDS} rounds of one step each:"
    )
    print_table(paired.HEADER, paired.rows(times, "bare DDP"))
    print(f"all that a session does: {cost:+.2f} ± {error:.2f} % of a step's time,")
    print(f"{cpu_cost:+.2f} ± {cpu_error:.2f} % of its CPU time")
    print(f"load {os.getloadavg()[0]:.1f}\n")
    print_figures(
        "resize_pause",
        {
            "grow_pause_seconds": statistics.median(session.grows),
            "shrink_pause_seconds": statistics.median(session.shrinks),
            "worst_grow_pause_seconds": max(session.grows),
            "worst_shrink_pause_seconds": max(session.shrinks),
            "steps_repeated": session.repeated,
            "torchrun_grow_seconds": statistics.median(torchrun.grows),
            "torchrun_shrink_seconds": statistics.median(torchrun.shrinks),
            "idle_cost_percent": cost,
            "idle_cost_error_percent": error,
            "idle_cpu_cost_percent": cpu_cost,
            "idle_cpu_cost_error_percent": cpu_error,
        },
    )


if __name__ == "__main__":
    main()
