"""Comparing how long a step takes on two sides, in the same processes and over the same process group.

The machine's speed wanders by more than what is to be measured. So the sides take turns step by step, each
step is compared with the one of the reference beside it, and the figure is the median of those ratios.
"""

import math
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from torch import distributed as dist

from benchmarks.local_group import free_port

# Memory that a step gives back stays with the process: else the kernel clears pages in every step, which
# takes longer than what is measured and varies more.
KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(2**32), "MALLOC_TRIM_THRESHOLD_": str(2**33)}

# Wall-clock and CPU seconds of a step.
Pair = tuple[float, float]
# Those of each step, for each side.
Times = dict[str, list[Pair]]


class Clock(IntEnum):
    """Place of its seconds in a `Pair`."""

    WALL = 0
    CPU = 1


def take_turns(sides: dict[str, Iterator[None]], *, rounds: int, warm_up: int) -> Times:
    """Time steps of all sides in turn; each `next` is a step. Every rank calls it."""
    times: Times = {name: [] for name in sides}
    for turn in range(warm_up + rounds):
        # Forth and back, so that no side always comes after another.
        for name in list(sides) if turn % 2 else list(reversed(sides)):
            seconds = _timed(sides[name])
            if turn >= warm_up:
                times[name].append(seconds)
    return times


def _timed(steps: Iterator[None]) -> Pair:
    """Wall-clock and CPU seconds of one step, from a common start."""
    dist.barrier()
    wall, cpu = time.perf_counter(), time.process_time()
    next(steps)
    return time.perf_counter() - wall, time.process_time() - cpu


@dataclass(frozen=True)
class Overhead:
    """How much longer steps take than those beside them, in percent.

    Attributes:
        median: Of all pairs.
        error: Standard error of the median, from the spread, were the pairs independent and normal.
        low: First quartile.
        high: Third quartile.
    """

    median: float
    error: float
    low: float
    high: float


def overhead(mine: Sequence[Pair], reference: Sequence[Pair]) -> Overhead:
    """Wall-clock overhead over the reference."""
    ratios = _percents(mine, reference, Clock.WALL)
    low, median, high = statistics.quantiles(ratios, n=4)
    return Overhead(median, (high - low) / 1.349 * 1.253 / len(ratios) ** 0.5, low, high)


def mean_overhead(runs: Sequence[Times], mine: str, reference: str, clock: Clock) -> tuple[float, float]:
    """How much more a step costs on the whole, in percent, and the standard error of that.

    What is done in few steps only would not show in a median. So this is the mean, in which a pair that the
    machine spoilt counts no more than one three quartile distances from the median. The error is that between
    runs: two sides that do the same differ by some tenths in one, by where their memory lies.
    """
    costs = []
    for run in runs:
        ratios = _percents(run[mine], run[reference], clock)
        low, median, high = statistics.quantiles(ratios, n=4)
        far = 3 * (high - low)
        costs.append(statistics.mean(min(max(ratio, median - far), median + far) for ratio in ratios))
    return statistics.mean(costs), statistics.stdev(costs) / len(costs) ** 0.5


def _percents(mine: Sequence[Pair], reference: Sequence[Pair], clock: Clock) -> list[float]:
    """How much longer each step took than the one beside it, as a logarithm times a hundred.

    Ratios of times that vary alike have a mean above 1 (Jensen); their logarithms have one of 0.
    """
    return [100 * math.log(a[clock] / b[clock]) for a, b in zip(mine, reference, strict=True)]


def rows(times: Times, reference: str) -> list[tuple[str, str, str, str, str]]:
    """A row of the table for each side: see `HEADER`."""
    table = []
    for name, seconds in times.items():
        walls, cpus = zip(*seconds, strict=True)
        cost = overhead(seconds, times[reference])
        table.append(
            (
                name,
                f"{1000 * statistics.median(walls):.2f}",
                f"{1000 * statistics.median(cpus):.2f}",
                f"{cost.median:+.2f} ± {cost.error:.2f}",
                f"{cost.low:+.1f} to {cost.high:+.1f}",
            )
        )
    return table


HEADER = ("training", "ms per step", "CPU ms", "overhead %", "middle half of the ratios %")


def run_ranks(target: Callable[[int, int, Any], None], *, ranks: int) -> Any:
    """Run `target(rank, port, results)` in fresh processes; returns what one has put into results."""
    port = free_port()
    os.environ |= KEEP_MEMORY
    context = multiprocessing.get_context("spawn")
    results = context.SimpleQueue()
    processes = [context.Process(target=target, args=(rank, port, results)) for rank in range(ranks)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    if any(process.exitcode for process in processes):
        raise SystemExit(f"could not measure: exit codes {[process.exitcode for process in processes]}")
    return results.get()
