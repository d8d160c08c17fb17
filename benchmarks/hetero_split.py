"""How much faster is a group of unequal ranks when the allocator splits the batch?

Real ranks over gloo train through the session with real forward and backward passes, and each keeps the pace
of a device: its last gradient is ready fixed + per_row·rows seconds after the batch came, no sooner. That is
a cost that the ranks know only by measuring it, as on a real device; the machine's own speed hardly matters.

Two ranks, one three times slower: the gain over the even split has the limit mean(c)/min(c) = 2 for speeds c;
the figure is of steps once the split is found.
Eight ranks of three speeds, with a jitter of 10 % in every step, of which a fast one slows down to a third
half-way: the figure is the part of the time saved by an oracle, which goes by the true mean costs from the
first step and from the change on. It is of whole runs, so what it takes to find the split and to see the
change counts. All sides meet the same jitter in the same steps.

The allocator's own cost is the CPU time of its decisions on one rank of eight, also in steps of a tenth. The
collectives are counted by the profiler beside those of bare DDP.

    make bench NAME=hetero_split
"""

import functools
import itertools
import os
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import distributed as dist
from torch import nn
from torch.nn import functional
from torch.utils.data import TensorDataset

from benchmarks import paired, sides
from benchmarks.report import describe_machine, print_figures, print_table
from cra_trainer.allocation.ranks import RankPlanner
from cra_trainer.allocation.shares import Floats
from cra_trainer.allocation.strategies import make_strategy
from cra_trainer.elastic.group import Membership
from cra_trainer.session import Session

TWO_BATCH, TWO_STEPS = 192, 80
EIGHT_BATCH, EIGHT_STEPS = 256, 160
PROFILED = 20


@dataclass(frozen=True, kw_only=True)
class Pace:
    """What a row and a step cost on each rank's device, in seconds.

    Attributes:
        fixed: Of a step, whatever its rows.
        per_row: Of a row, [ranks].
        jitter: Deviation of the log of what a row costs, from step to step.
        slower: From this step on...
        by: ...a row costs rank 0 so many times as much.
    """

    fixed: float
    per_row: Sequence[float]
    jitter: float = 0.0
    slower: int = 10**9
    by: float = 1.0

    def expected(self, step: int) -> Floats:
        """Mean seconds per row of each rank."""
        per_row = np.array(self.per_row)
        per_row[0] *= self.by if step >= self.slower else 1.0
        return per_row

    def seconds(self, rank: int, step: int, rows: int) -> float:
        """Of a rank's step; the same whenever it is asked for."""
        factor = np.exp(self.jitter * np.random.default_rng((step, rank)).standard_normal())
        return self.fixed + float(self.expected(step)[rank] * factor * rows)


TWO = Pace(fixed=0.0, per_row=(0.8e-3, 2.4e-3))
TWO_FIXED = Pace(fixed=0.05, per_row=(0.8e-3, 2.4e-3))
FAST, MEDIUM, SLOW = 2.0e-3, 4.0e-3, 8.0e-3
EIGHT = Pace(
    fixed=0.01,
    per_row=(FAST, FAST, FAST, MEDIUM, MEDIUM, MEDIUM, SLOW, SLOW),
    jitter=0.1,
    slower=EIGHT_STEPS // 2,
    by=3.0,
)

# Of steps as short as those of the smallest workloads.
SHORT = Pace(fixed=0.0, per_row=tuple(q / 10 for q in EIGHT.per_row), jitter=0.1)
CASES = {
    "2, one 3x slower": (TWO, TWO_BATCH, TWO_STEPS),
    "2, one 3x slower, 50 ms fixed": (TWO_FIXED, TWO_BATCH, TWO_STEPS),
    "8 of 3 speeds, one slows down": (EIGHT, EIGHT_BATCH, EIGHT_STEPS),
}
# Seconds of each step under the even split, the allocator and the oracle.
Found = dict[str, tuple[list[float], list[float], list[float]]]
# mean(c) / min(c), with speeds of 3 and 1.
LIMIT = 2.0
SIDES = ("even", "attention", "oracle")


def make_model() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 3))


def make_dataset(batch: int) -> TensorDataset:
    """An epoch of 50 whole batches."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(50 * batch, 8, generator=generator)
    return TensorDataset(x, torch.randint(3, (len(x),), generator=generator))


class Device:
    """Lets the last gradient of a step be ready when the pace says so.

    NB: a hook of the first layer's parameters runs before DDP takes their gradients for ready.
    """

    def __init__(self, model: nn.Module, pace: Pace, rank: int) -> None:
        self._pace, self._rank, self._until = pace, rank, 0.0
        for parameter in next(iter(model.children())).parameters():
            parameter.register_hook(self._wait)  # type: ignore[no-untyped-call]

    def begin(self, step: int, rows: int) -> None:
        """A batch has come."""
        self._until = time.perf_counter() + self._pace.seconds(self._rank, step, rows)

    def _wait(self, _: torch.Tensor) -> None:
        time.sleep(max(0.0, self._until - time.perf_counter()))


def training(session: Session, pace: Pace, batch: int, *, first: int = 0) -> Iterator[None]:
    """Train at a pace that begins at step `first`; each `next` is a step."""
    model = make_model()
    wrapped, _ = session.prepare(model, torch.optim.SGD(model.parameters(), lr=0.01))
    device, dataset = Device(model, pace, session.rank), make_dataset(batch)

    def steps() -> Iterator[None]:
        step = first
        for _epoch in session.epochs():
            for x, y in session.batches(dataset):
                device.begin(step, len(x))
                session.backward(functional.cross_entropy(wrapped(x), y))
                session.step()
                step += 1
                yield

    return steps()


def optimum(pace: Pace, batch: int, step: int) -> Floats:
    """The rows that make a step of the expected cost shortest, as a real-valued split.

    All ranks end at T* = (B + Σ s_i/q_i) / Σ 1/q_i; at these costs every rank has rows to train until then.
    """
    per_row = pace.expected(step)
    end = (batch + (pace.fixed / per_row).sum()) / (1 / per_row).sum()
    return np.asarray((end - pace.fixed) / per_row)


class Sides:
    """The same steps at the same pace, split in different ways, by ranks of one group."""

    def __init__(self, membership: Membership, pace: Pace, *, batch: int, steps: int) -> None:
        self._membership, self._pace, self._batch, self._steps = membership, pace, batch, steps

    def seconds(self, strategy: str) -> list[float]:
        """Of each step of a run."""
        return self._timed([(strategy, (), 0, self._steps)])

    def oracle(self) -> list[float]:
        """The same of a run that goes by the true costs from the first step and from the change on."""
        cuts = [0, min(self._pace.slower, self._steps), self._steps]
        phases = [(a, b) for a, b in itertools.pairwise(cuts) if a < b]
        return self._timed(
            [("fixed", tuple(optimum(self._pace, self._batch, a)), a, b - a) for a, b in phases]
        )

    def _timed(self, phases: list[tuple[str, tuple[float, ...], int, int]]) -> list[float]:
        runs = []
        for strategy, weights, first, count in phases:
            session = sides.make_session(
                self._membership, batch_size=self._batch, strategy=strategy, weights=weights
            )
            runs.append((training(session, self._pace, self._batch, first=first), count))
        # The machine's own start-up is none of the device's time.
        dist.barrier()
        ends = [time.perf_counter()]
        for steps, count in runs:
            for _ in range(count):
                next(steps)
                ends.append(time.perf_counter())
        return [b - a for a, b in itertools.pairwise(ends)]


def extra_collectives(membership: Membership) -> int:
    """Collectives of some steps of a session beyond those of bare DDP."""
    batch = 64
    turns = (
        sides.with_session(
            sides.make_session(membership, batch_size=batch, strategy="attention"),
            make_dataset(batch),
            make_model(),
        ),
        sides.bare_ddp(make_dataset(batch), make_model(), batch_size=batch),
    )
    counts = []
    for steps in turns:
        next(steps)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as seen:
            for _ in range(PROFILED):
                next(steps)
        counts.append(sum(event.name.startswith("gloo:") for event in seen.events() or []))
    if not counts[1]:
        raise SystemExit("could not measure: the profiler saw no collective of bare DDP")
    return int(counts[0] - counts[1])


def allocator_seconds(pace: Pace, batch: int, steps: int) -> tuple[float, float]:
    """CPU seconds that one rank of the group spends on the allocator per step, and those of the step."""
    ranks = len(pace.per_row)
    planner = RankPlanner(strategy=make_strategy("attention"), world_size=ranks, batch_size=batch)
    spent = passed = 0.0
    for step in range(steps):
        rows = planner.rows(batch)
        seconds = np.array([pace.seconds(rank, step, int(rows[rank])) for rank in range(ranks)])
        passed += float(seconds.max())
        started = time.thread_time()
        planner.observe(planner.rows(batch), seconds, np.full(ranks, float(planner.digest)))
        spent += time.thread_time() - started
    return spent / steps, passed / steps


def measure(rank: int, port: int, results: Any, ranks: int) -> None:
    """What one rank of two, or of eight, does; rank 0 reports."""
    membership = sides.membership(rank, port, ranks=ranks)
    found: Found = {}
    for name, (pace, batch, steps) in CASES.items():
        if len(pace.per_row) != ranks:
            continue
        run = Sides(membership, pace, batch=batch, steps=steps)
        found[name] = run.seconds("uniform"), run.seconds("attention"), run.oracle()
    extra = extra_collectives(membership)
    if rank == 0:
        results.put((found, extra))
    membership.finish()


def settled(seconds: list[float]) -> float:
    """A step's, when all ranks have been measured for a while."""
    return statistics.median(seconds[-len(seconds) // 3 :])


def main() -> None:
    print(describe_machine(torch=torch.__version__))
    print(f"processes over gloo, one thread each; load {os.getloadavg()[0]:.1f}\n")
    found: Found = {}
    extras: list[int] = []
    for ranks in (2, 8):
        seconds, extra = paired.run_ranks(functools.partial(measure, ranks=ranks), ranks=ranks)
        found |= seconds
        extras.append(extra)
    rows = []
    for name, times in found.items():
        even, ours, oracle = (sum(seconds) for seconds in times)
        rows.append(
            [
                name,
                *(f"{total:.2f}" for total in (even, ours, oracle)),
                f"{(even - ours) / (even - oracle):.3f}",
                *(f"{1000 * settled(seconds):.0f}" for seconds in times),
            ]
        )
    print_table(
        [
            "ranks",
            *(f"{side}, s" for side in SIDES),
            "saved / by oracle",
            *(f"{side}, ms a step" for side in SIDES),
        ],
        rows,
    )
    print("\nseconds of whole runs; milliseconds are the median of the last third of a run's steps")

    spent, step = allocator_seconds(EIGHT, EIGHT_BATCH, 1000)
    short_spent, short_step = allocator_seconds(SHORT, EIGHT_BATCH, 1000)
    print(
        f"\nallocator, 8 ranks: {1000 * spent:.3f} ms of CPU in a step of {1000 * step:.0f} ms, "
        f"{1000 * short_spent:.3f} ms in one of {1000 * short_step:.0f} ms"
    )
    even, ours, _ = map(settled, found["2, one 3x slower"])
    eight_even, eight, eight_oracle = map(sum, found["8 of 3 speeds, one slows down"])
    figures = {
        "gain_two_ranks": even / ours,
        "gain_over_limit_two_ranks": even / ours / LIMIT,
        "gain_over_oracle_eight_ranks": (eight_even - eight) / (eight_even - eight_oracle),
        "allocator_percent_of_step": 100 * max(spent / step, short_spent / short_step),
        "allocator_ms_per_step": 1000 * max(spent, short_spent),
        "extra_collectives": float(max(extras)),
    }
    print_figures("hetero_split", figures)


if __name__ == "__main__":
    main()
