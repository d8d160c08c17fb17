"""What a rank did and when, written down by the training script: no side is asked how long it paused.

Each rank appends lines to a file: "batch" when it was handed these samples, "step" when its optimizer took a
step. The session's are written by a hook of the optimizer, so whatever happens between two steps lies between
two lines; a step that a crash made void leaves a batch without its step, and a batch with the same samples
after it.
"""

import itertools
import json
import os
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

VARIABLE = "BENCHMARK_STEPS"
Kind = Literal["batch", "step"]


@dataclass(frozen=True)
class Line:
    """One line: when (seconds of this machine's monotonic clock), in a group of which size, which samples."""

    kind: Kind
    time: float
    rank: int
    world_size: int
    step: int
    epoch: int
    samples: Sequence[int] = ()


class StepLog:
    """Writes the lines of one rank to the file that the environment names; to nowhere when it names none."""

    def __init__(self) -> None:
        self._file = os.open(
            os.environ.get(VARIABLE, os.devnull), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644
        )

    def write(
        self, kind: Kind, *, rank: int, world_size: int, step: int, epoch: int, samples: Iterable[int] = ()
    ) -> None:
        """Append a line, in one write: a kill leaves no half of one."""
        line = [kind, time.monotonic(), rank, world_size, step, epoch, list(samples)]
        os.write(self._file, f"{json.dumps(line)}\n".encode())


class Steps:
    """Reads such a file as it grows."""

    def __init__(self, path: Path) -> None:
        self._path, self._offset = path, 0
        self._lines: list[Line] = []

    @property
    def lines(self) -> Sequence[Line]:
        """All lines so far."""
        if self._path.exists():
            with self._path.open("rb") as file:
                file.seek(self._offset)
                text = file.read()
            whole = text[: text.rfind(b"\n") + 1]
            self._offset += len(whole)
            for line in whole.splitlines():
                self._lines.append(Line(*json.loads(line)))
        return self._lines

    @property
    def steps(self) -> list[Line]:
        """The steps so far."""
        return [line for line in self.lines if line.kind == "step"]


def wait(
    until: Callable[[], bool], *, what: str, check: Callable[[], None] = lambda: None, seconds: float = 120.0
) -> None:
    """Wait until something is so; `check` may raise meanwhile.

    Raises:
        SystemExit: It was not so in time: the benchmark could not measure.
    """
    limit = time.monotonic() + seconds
    while not until():
        check()
        if time.monotonic() > limit:
            raise SystemExit(f"could not measure: {what} did not happen within {seconds:.0f} s")
        time.sleep(0.02)


def pauses(steps: Sequence[Line], before: int, after: int) -> list[float]:
    """Seconds of each change between two sizes, in order: from the leader's last step before to its first
    after.

    Sizes between the two count as part of the pause.
    """
    found: list[float] = []
    last: float | None = None
    for line in steps:
        if line.world_size == before:
            last = line.time
        elif line.world_size == after and last is not None:
            found.append(line.time - last)
            last = None
    return found


def step_seconds(steps: Sequence[Line], size: int) -> float:
    """Median seconds of a step at a size."""
    pairs = itertools.pairwise(steps)
    return statistics.median(b.time - a.time for a, b in pairs if a.world_size == b.world_size == size)


@dataclass(frozen=True)
class Repeat:
    """A batch of samples that the same rank had had before in that epoch.

    Attributes:
        applied: Whether a step was taken on the first of the two as well.
    """

    time: float
    applied: bool


def repeats(lines: Sequence[Line]) -> list[Repeat]:
    """Every batch of one rank that it was handed again."""
    applied: dict[tuple[int, int], bool] = {}
    found = []
    mine: list[tuple[int, int]] = []
    for line in lines:
        if line.kind == "step":
            applied |= dict.fromkeys(mine, True)
            continue
        mine = [(line.epoch, sample) for sample in line.samples]
        if any(sample in applied for sample in mine):
            found.append(Repeat(line.time, any(applied.get(sample, False) for sample in mine)))
        applied |= {sample: applied.get(sample, False) for sample in mine}
    return found


def redone(steps: Sequence[Line]) -> int:
    """How many steps were taken that had been taken before, by their number."""
    furthest = count = 0
    for line in sorted(steps, key=lambda line: line.time):
        count += line.step <= furthest
        furthest = max(furthest, line.step)
    return count
