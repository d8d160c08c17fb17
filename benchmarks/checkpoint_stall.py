"""How much does keeping checkpoints hold up the training?

A model of 10 M parameters trains with Adam on all cores, so a checkpoint has 120 MB and its writer has to
share. Two ways take turns in one run: saved and synced between two steps as a plain script would, and as the
trainer does it, which copies the state and writes the copy in the background. Before each are steps without a
checkpoint, whose median is what a step takes then.

What a checkpoint costs is all that the steps took longer than the ones before them, from its snapshot to the
end of its writing; at the default interval that is spread over a minute of steps. The worst step is the one
that took longest; the same is given for the steps without a checkpoint, which is the machine's noise. All are
medians over the rounds.

    make bench NAME=checkpoint_stall
"""

import os
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch
from torch import nn
from torch.nn import functional

from benchmarks.report import describe_machine, print_figures, print_table
from cra_trainer.checkpoint import Checkpoints, State, snapshot
from cra_trainer.config import Checkpointing

ROUNDS = 12
IDLE_STEPS = 10
WARM_UP = 5
BATCH = 64
WIDTH = 2048


class Training:
    """A training in one process."""

    def __init__(self) -> None:
        self.model = nn.Sequential(
            *(nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU()) for _ in range(2)), nn.Linear(WIDTH, 800)
        )
        self.optimizer = torch.optim.Adam(self.model.parameters())
        self._x, self._y = torch.randn(BATCH, WIDTH), torch.randint(800, (BATCH,))

    def step(self, boundary: Callable[[], object] = lambda: None) -> tuple[float, float]:
        """One step and what comes after it; returns the seconds of both together, and of the latter."""
        start = time.perf_counter()
        functional.cross_entropy(self.model(self._x), self._y).backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.optimizer.zero_grad()
        stepped = time.perf_counter()
        boundary()
        end = time.perf_counter()
        return end - start, end - stepped

    def live(self) -> State:
        return {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}


class Synchronous:
    """Saves as a plain script would."""

    busy = False

    def __init__(self, training: Training, directory: Path) -> None:
        self._training, self._directory = training, directory
        directory.mkdir()

    def save(self) -> None:
        with (self._directory / "new").open("wb") as file:
            torch.save(self._training.live(), file)
            file.flush()
            os.fsync(file.fileno())
        (self._directory / "new").rename(self._directory / "newest")

    def wait(self) -> None:
        pass


class Background:
    """Saves as the trainer does."""

    def __init__(self, training: Training, directory: Path) -> None:
        self._training = training
        self._checkpoints, self._step = Checkpoints(directory, keep=2), 0
        self.wait = self._checkpoints.wait

    @property
    def busy(self) -> bool:
        return self._checkpoints.busy

    def save(self) -> None:
        self._step += 1
        state = snapshot(self._training.live(), spare=self._checkpoints.spare())
        self._checkpoints.save(state, self._step)


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Seconds of the steps before a checkpoint, of its snapshot, and of the steps until it is written."""

    before: list[float]
    snapshot: float
    during: list[float]

    @property
    def step(self) -> float:
        return median(self.before)

    @property
    def cost(self) -> float:
        return sum(self.during) - len(self.during) * self.step


def measure(directory: Path) -> dict[str, list[Sample]]:
    """The checkpoints of each way."""
    training = Training()
    ways: dict[str, Synchronous | Background] = {
        "synchronous": Synchronous(training, directory / "synchronous"),
        "trainer": Background(training, directory / "trainer"),
    }
    for _ in range(WARM_UP):
        training.step()
    for way in ways.values():
        way.save()
        way.wait()
    samples: dict[str, list[Sample]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, way in ways.items():
            before = [training.step()[0] for _ in range(IDLE_STEPS)]
            first, saving = training.step(way.save)
            during = [first]
            while way.busy:
                during.append(training.step()[0])
            samples[name].append(Sample(before=before, snapshot=saving, during=during))
    return samples


def main() -> None:
    directory = Path(tempfile.mkdtemp())
    try:
        samples = measure(directory)
    finally:
        shutil.rmtree(directory)
    print(describe_machine(torch=torch.__version__))
    every = [sample for way in samples.values() for sample in way]
    step, interval = median(sample.step for sample in every), Checkpointing().interval_seconds
    print(f"a step takes {step * 1e3:.0f} ms, a checkpoint is made every {interval:.0f} s\n")
    titles = ("between two steps", "in the background")
    rows, figures = [], {"step_ms": step * 1e3}
    for title, (name, way) in zip(titles, samples.items(), strict=True):
        held = median(sample.snapshot for sample in way) * 1e3
        cost = median(sample.cost for sample in way)
        stall = cost / interval * 100
        worst = median(max(sample.during) / sample.step - 1 for sample in way) * 100
        rows.append([title, f"{held:.0f}", f"{cost * 1e3:.0f}", f"{stall:.2f}", f"{worst:.0f}"])
        figures |= {
            f"{name}_held_ms": held,
            f"{name}_cost_ms": cost * 1e3,
            f"{name}_stall_percent": stall,
            f"{name}_worst_step_percent": worst,
        }
    noise = median(max(sample.before) / sample.step - 1 for sample in every) * 100
    rows.append(["none", "", "", "", f"{noise:.0f}"])
    print_table(["checkpoint", "held ms", "cost ms", "of the interval %", "worst step +%"], rows)
    print_figures("checkpoint_stall", figures | {"noise_worst_step_percent": noise})


if __name__ == "__main__":
    main()
