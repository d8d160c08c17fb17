"""Does freezing the front of a model pay? Beside each training with a cut: one of all layers at equal cost.

Three settings, each with the built-in workload that a job would run:

- Fine-tuning: a network that knows four digits learns ten, with a small compute budget, so that its front
  freezes after the first tenth and its results come from memory; and the same with a large one.
- From scratch: the same network learns the digits under a compute budget, with no memory, for its images are
  augmented anew in every epoch.

The control trains every layer, with as many epochs as cost at least as many floating-point operations as the
training with the cut, and a learning rate that decays over just these epochs. The time to accuracy is the
time until a report reaches what the control has in the end, over the time that the control took for it; a
training that does not reach it counts its own time and the control's. Evaluations and the start are left out.
Time is told twice, by the clock and as CPU time of the one thread that computes: on a machine with neighbours
only the latter says something.

    make bench NAME=layer_attention
"""

import json
import math
import multiprocessing
import statistics
import sys
import tempfile
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from benchmarks.report import describe_machine, print_figures, print_table
from benchmarks.scripts import training_cost
from cra_trainer.workloads import digits_cnn, fine_tune, images

WIDTH = 32
PRETEXT_STEPS = 300


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A workload, its epochs and budget with a cut, and how it is told apart: by name, and in figures by
    prefix.
    """

    name: str
    prefix: str
    seeds: int
    workload: str
    epochs: int
    budget: float
    learning_rate: float
    parameters: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A training's last accuracy, and the time it took by the clock and on the CPU."""

    accuracy: float
    seconds: float
    cpu_seconds: float


def make_pretrained(file: Path) -> None:
    """A network that knows four digits well: the features are of the pretext, the head is not used."""
    torch.manual_seed(0)
    model = digits_cnn.make_model(WIDTH, fine_tune.KNOWN)
    x, labels = images.digits(digits_cnn.SIZE)[0].tensors
    x, labels = x[labels < fine_tune.KNOWN], labels[labels < fine_tune.KNOWN]
    optimizer = torch.optim.Adam(model.parameters(), lr=0.003)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.006, total_steps=PRETEXT_STEPS)
    for _ in range(PRETEXT_STEPS):
        rows = torch.randint(len(x), (64,))
        loss = functional.cross_entropy(model(digits_cnn.augment(x[rows])), labels[rows])
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
    torch.save(model.state_dict(), file)


def environment(
    setting: Setting, directory: Path, *, epochs: int, budget: float, seed: int, target: float | None
) -> dict[str, str]:
    """What a pod of such a job would find in its environment."""
    config: dict[str, Any] = {
        "workload": {"parameters": {"width": str(WIDTH), **setting.parameters}},
        "training": {
            "epochs": epochs,
            "batchSize": 64,
            "seed": seed,
            "optimizer": {"learningRate": setting.learning_rate},
        },
        "allocator": {"layers": {"computeBudget": budget}},
    }
    if target is not None:
        config["training"]["targetMetric"] = {"name": "accuracy", "value": target}
    return {
        "CRA_CONFIG": json.dumps(config),
        "CRA_TERMINATION_LOG": str(directory / "message"),
    }


def train(
    setting: Setting,
    directory: Path,
    *,
    epochs: int,
    seed: int,
    budget: float = 1.0,
    target: float | None = None,
) -> Trained:
    """Run the workload as a process of its own; with a target it ends when a report reaches that."""
    environ = environment(setting, directory, epochs=epochs, budget=budget, seed=seed, target=target)
    cost = _run(setting, environ)
    told = json.loads((directory / "message").read_text())
    return Trained(accuracy=told["metrics"]["accuracy"], **cost)


def flops(setting: Setting, directory: Path, *, epochs: int, budget: float = 1.0) -> int:
    """Operations of such a training, counted in one that is not timed."""
    environ = environment(setting, directory, epochs=epochs, budget=budget, seed=0, target=None)
    return int(_run(setting, environ, count=True)["flops"])


def _run(setting: Setting, environ: dict[str, str], *, count: bool = False) -> dict[str, float]:
    """Run it in a process of its own, forked from one that has imported everything."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch._dynamo", "benchmarks.scripts.training_cost"])
    with ProcessPoolExecutor(max_workers=1, mp_context=context) as pool:
        return pool.submit(
            training_cost.main, f"cra_trainer.workloads.{setting.workload}", environ, count
        ).result()


def compare(setting: Setting, directory: Path) -> tuple[list[list[str]], dict[str, float]]:
    """Rows of the table and figures of one setting."""
    with_cut = flops(setting, directory, epochs=setting.epochs, budget=setting.budget)
    per_epoch = flops(setting, directory, epochs=1)
    epochs = math.ceil(with_cut / per_epoch)
    controls: list[Trained] = []
    cuts: list[Trained] = []
    wall: list[float] = []
    cpu: list[float] = []
    reached = 0
    for seed in range(setting.seeds):
        control = train(setting, directory, epochs=epochs, seed=seed)
        cut = train(setting, directory, epochs=setting.epochs, budget=setting.budget, seed=seed)
        until = train(
            setting,
            directory,
            epochs=setting.epochs,
            budget=setting.budget,
            seed=seed,
            target=control.accuracy,
        )
        there = until.accuracy >= control.accuracy
        reached += there
        wall.append(until.seconds / control.seconds + (not there))
        cpu.append(until.cpu_seconds / control.cpu_seconds + (not there))
        controls.append(control)
        cuts.append(cut)
    rows = [
        row(f"{setting.name}, all layers", epochs, epochs * per_epoch, controls, ""),
        row(
            f"{setting.name}, budget {setting.budget:g}",
            setting.epochs,
            with_cut,
            cuts,
            f"{statistics.median(cpu):.2f} ({reached} of {setting.seeds} got there)",
        ),
    ]
    prefix = setting.prefix
    figures = {
        f"{prefix}time_to_accuracy_over_control": statistics.median(wall),
        f"{prefix}cpu_time_to_accuracy_over_control": statistics.median(cpu),
        f"{prefix}cpu_time_to_accuracy_over_control_mean": statistics.mean(cpu),
        f"{prefix}reached_of_{setting.seeds}_seeds": float(reached),
        f"{prefix}accuracy_percent": 100 * statistics.mean(one.accuracy for one in cuts),
        f"{prefix}accuracy_control_percent": 100 * statistics.mean(one.accuracy for one in controls),
        f"{prefix}flops_over_control": with_cut / (epochs * per_epoch),
    }
    return rows, figures


def row(name: str, epochs: int, operations: int, trained: list[Trained], ratio: str) -> list[str]:
    accuracies = [100 * one.accuracy for one in trained]
    return [
        name,
        str(epochs),
        f"{operations / 1e9:.1f}",
        f"{statistics.median(one.cpu_seconds for one in trained):.1f}",
        f"{statistics.mean(accuracies):.2f} +- {statistics.stdev(accuracies):.2f}",
        ratio,
    ]


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch)
        make_pretrained(directory / "pretrained.pt")
        fine_tuning = Setting(
            name="fine-tuning",
            prefix="",
            seeds=5,
            workload="fine_tune",
            epochs=12,
            budget=0.12,
            learning_rate=0.006,
            parameters={"pretrained": str(directory / "pretrained.pt"), "versions": "2"},
        )
        from_scratch = Setting(
            name="from scratch",
            prefix="from_scratch_",
            seeds=3,
            workload="digits_cnn",
            epochs=8,
            budget=0.6,
            learning_rate=0.001,
            parameters={},
        )
        large_budget = replace(fine_tuning, prefix="large_budget_", seeds=3, budget=0.4)
        rows: list[list[str]] = []
        figures: dict[str, float] = {}
        for setting in (fine_tuning, large_budget, from_scratch):
            told, found = compare(setting, directory)
            print(*(" ".join(line) for line in told), sep="\n", file=sys.stderr, flush=True)
            rows += told
            figures |= found
    print(describe_machine(torch=version("torch")))
    print_table(
        ["training", "epochs", "GFLOP", "CPU s", "accuracy %", "CPU time to accuracy, over control"], rows
    )
    print_figures("layer_attention", figures)


if __name__ == "__main__":
    main()
