"""How much does keeping checkpoints hold up the training?

A model of 10 M parameters trains with Adam on all cores, so a checkpoint has 120 MB and its writer has to
share. Three ways take turns in one run: saved and synced between two steps as a plain script would; written
in the background; and that with the snapshot in the memory of the one before, which is how the trainer does
it. Between them are steps without a checkpoint, whose median is what a step takes.

What a checkpoint costs is all that the steps took longer, from its snapshot to the end of its writing; at the
default interval that is spread over a minute of steps. The worst step is the one that had to wait longest, as
a part of what a step takes; the same is given for steps without a checkpoint, which is the machine's noise.

    make bench NAME=checkpoint_stall
"""

import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from torch import nn
from torch.nn import functional

from benchmarks.report import describe_machine, print_figures, print_table
from cra_trainer.checkpoint import Checkpoints, State, snapshot
from cra_trainer.config import Checkpointing

ROUNDS = 8
IDLE_STEPS = 8
WARM_UP = 5
BATCH = 512
WIDTH = 2048


class Training:
    """A training in one process."""

    def __init__(self) -> None:
        self.model = nn.Sequential(
            *(nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU()) for _ in range(2)), nn.Linear(WIDTH, 800)
        )
        self.optimizer = torch.optim.Adam(self.model.parameters())
        self._x, self._y = torch.randn(BATCH, WIDTH), torch.randint(800, (BATCH,))

    def step(self, boundary: Callable[[], object] = lambda: None) -> float:
        """One step and what comes after it; returns its seconds."""
        start = time.perf_counter()
        functional.cross_entropy(self.model(self._x), self._y).backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.optimizer.zero_grad()
        boundary()
        return time.perf_counter() - start

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
    """Saves as the trainer does, with or without the memory of the last snapshot."""

    def __init__(self, training: Training, directory: Path, *, reuse: bool) -> None:
        self._training, self._reuse = training, reuse
        self._checkpoints, self._step = Checkpoints(directory, keep=2), 0
        self.wait = self._checkpoints.wait

    @property
    def busy(self) -> bool:
        return self._checkpoints.busy

    def save(self) -> None:
        spare = self._checkpoints.spare()
        self._step += 1
        self._checkpoints.save(
            snapshot(self._training.live(), spare=spare if self._reuse else None), self._step
        )


def measure(directory: Path) -> tuple[list[float], dict[str, list[list[float]]]]:
    """Seconds of steps without a checkpoint, and for each way those of every checkpoint."""
    training = Training()
    ways: dict[str, Synchronous | Background] = {
        "between two steps": Synchronous(training, directory / "synchronous"),
        "in the background": Background(training, directory / "fresh", reuse=False),
        "and into the same memory": Background(training, directory / "reused", reuse=True),
    }
    for _ in range(WARM_UP):
        training.step()
    for way in ways.values():
        way.save()
        way.wait()
    idle: list[float] = []
    loaded: dict[str, list[list[float]]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, way in ways.items():
            idle += [training.step() for _ in range(IDLE_STEPS)]
            during = [training.step(way.save)]
            while way.busy:
                during.append(training.step())
            loaded[name].append(during)
    return idle, loaded


def main() -> None:
    directory = Path(tempfile.mkdtemp())
    try:
        idle, loaded = measure(directory)
    finally:
        shutil.rmtree(directory)
    print(describe_machine(torch=torch.__version__))
    step, interval = median(idle), Checkpointing().interval_seconds
    print(f"a step takes {step * 1e3:.0f} ms, a checkpoint is made every {interval:.0f} s\n")
    rows, figures = [], {"step_ms": step * 1e3}
    names = dict(zip(loaded, ("synchronous", "fresh_memory", "trainer"), strict=True))
    for name, checkpoints in loaded.items():
        cost = median(sum(seconds) - len(seconds) * step for seconds in checkpoints)
        share = cost / interval * 100
        worst = median(max(seconds) / step - 1 for seconds in checkpoints) * 100
        rows.append([name, f"{cost * 1e3:.0f}", f"{share:.2f}", f"{worst:.0f}"])
        figures |= {
            f"{names[name]}_cost_ms": cost * 1e3,
            f"{names[name]}_stall_percent": share,
            f"{names[name]}_worst_step_percent": worst,
        }
    chunks = [idle[i : i + IDLE_STEPS] for i in range(0, len(idle), IDLE_STEPS)]
    noise = median(max(chunk) / step - 1 for chunk in chunks) * 100
    rows.append([f"no checkpoint, worst of {IDLE_STEPS} steps", "", "", f"{noise:.0f}"])
    print_table(["checkpoint", "cost ms", "of the interval %", "worst step +%"], rows)
    print_figures("checkpoint_stall", figures | {"noise_worst_step_percent": noise})


if __name__ == "__main__":
    main()
