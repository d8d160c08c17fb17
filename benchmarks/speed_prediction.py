"""How well does a model of a job's speed, fitted to the sizes that it ran on, predict the next larger one?

The six applications of the Pollux evaluation were measured on 1 to 16 T4 GPUs in nodes of four. A job that
ran on 1, 2, ... k GPUs is asked for its step time on 2k: with its batch kept, so that each GPU gets half
(strong), and with the batch of each GPU kept (weak). Beside the model stand two rules without one: that twice
the GPUs do twice the work in the same time (perfect), and that they help nothing (as measured). Errors are of
step times, |log(predicted / measured)| in percent. `too_hopeful` is the part of the predictions that are
shorter than what was measured by more than a tenth: such a promise costs one resize, while GPUs that are not
promised anything of stay unused.

Then: what a thousand fits and a thousand predictions cost, in CPU time.

    make bench NAME=speed_prediction
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks.report import describe_machine, print_figures, print_table
from cra_operator.controller.policy import Floats, Sizes
from cra_operator.controller.speed import SpeedPoint, fit, fit_all
from cra_simulator import data
from cra_simulator.profile_files import read_measurements

PROFILES = Path(data.__file__).parent / "pollux" / "profiles"
PLACEMENTS = {1: 1, 2: 2, 4: 4, 8: 44, 16: 4444}
"""Measured placement of each number of GPUs: a digit for each node."""
NODE = 4
Step = Callable[[int, float], float]


def steps(folder: Path) -> tuple[Step, Floats]:
    """Measured step time by GPUs and batch of one GPU, and the batches of one GPU that were measured."""
    table = read_measurements(folder, "placements.csv", ("placement", "local_bsz", "step_time", "sync_time"))
    curves = {}
    for gpus, placement in PLACEMENTS.items():
        rows = table["placement"] == placement
        order = np.argsort(table["local_bsz"][rows])
        curves[gpus] = (table["local_bsz"][rows][order], table["step_time"][rows][order])
    shared = curves[max(curves)][0]

    def step(gpus: int, local: float) -> float:
        return float(np.interp(local, *curves[gpus]))

    return step, shared


def cases(step: Step, local: Floats, *, strong: bool) -> Iterator[tuple[list[SpeedPoint], int, int, float]]:
    """Known points, the next size, its batch and its step time, wherever all of it was measured."""
    for k in list(PLACEMENTS)[:-1]:
        sizes = [gpus for gpus in PLACEMENTS if gpus <= 2 * k]
        for m in local:
            batches = {gpus: m * 2 * k if strong else m * gpus for gpus in sizes}
            if all(local.min() <= batches[gpus] / gpus <= local.max() for gpus in sizes):
                points = [
                    point(gpus, int(batches[gpus]), step(gpus, batches[gpus] / gpus)) for gpus in sizes[:-1]
                ]
                yield points, 2 * k, int(batches[2 * k]), step(2 * k, batches[2 * k] / (2 * k))


def point(gpus: int, batch: int, seconds: float) -> SpeedPoint:
    """A measured point."""
    return SpeedPoint(gpus=gpus, nodes=-(-gpus // NODE), kind=0, batch=batch, step_seconds=seconds)


def column(gpus: int) -> Sizes:
    """One size on offer."""
    columns = np.array([0, gpus])
    return Sizes(gpus=columns, nodes=-(-columns // NODE), kind=np.zeros(2, dtype=np.int64))


def predictions(points: list[SpeedPoint], gpus: int, batch: int) -> dict[str, float]:
    """Seconds of a step at the next size, by each rule."""
    last = points[-1]
    share = (batch / gpus) / (last.batch / last.gpus)  # of the last local batch
    return {
        "model": float(fit(points).step_seconds(column(gpus), batch)[1]),
        "perfect": last.step_seconds * share,
        "as measured": last.step_seconds * batch / last.batch,
    }


def main() -> None:
    """Print the errors of all rules, then the cost."""
    print(describe_machine(numpy=version("numpy")))
    figures: dict[str, float] = {}
    rows: list[list[str]] = []
    for name, strong in (("strong", True), ("weak", False)):
        errors: dict[str, list[float]] = {}
        for folder in sorted(path for path in PROFILES.iterdir() if path.is_dir()):
            step, local = steps(folder)
            for points, gpus, batch, seconds in cases(step, local, strong=strong):
                for rule, predicted in predictions(points, gpus, batch).items():
                    errors.setdefault(rule, []).append(float(np.log(predicted / seconds)))
        for rule, found in errors.items():
            far = 100 * np.abs(found)
            hopeful = float(np.mean(np.array(found) < np.log(0.9)))
            rows.append(
                [
                    name,
                    rule,
                    str(len(found)),
                    f"{np.median(far):.1f} %",
                    f"{np.percentile(far, 90):.1f} %",
                    f"{hopeful:.0%}",
                ]
            )
            key = f"{name}_{rule.replace(' ', '_')}"
            figures[f"{key}_median_error_percent"] = float(np.median(far))
            figures[f"{key}_too_hopeful_ratio"] = hopeful
    print_table(["batch", "rule", "cases", "median error", "90th percentile", "too hopeful"], rows)
    figures |= costs()
    print_figures("speed_prediction", figures)


def costs() -> dict[str, float]:
    """CPU milliseconds of a thousand fits together, of one alone, and of a thousand predictions."""
    rng = np.random.default_rng(0)
    folder = PROFILES / "cifar10"
    step, local = steps(folder)
    jobs = []
    for _ in range(1000):
        m = float(rng.choice(local))
        count = int(rng.integers(1, len(PLACEMENTS) + 1))
        jobs.append(
            [
                point(gpus, int(m * gpus), step(gpus, m) * float(np.exp(0.03 * rng.normal())))
                for gpus in list(PLACEMENTS)[:count]
            ]
        )
    sizes = Sizes(gpus=np.arange(65), nodes=-(-np.arange(65) // NODE), kind=np.zeros(65, dtype=np.int64))
    took = {"fit_1000_ms": [], "fit_one_ms": [], "predict_1000_ms": []}  # type: dict[str, list[float]]
    for _ in range(5):
        began = time.process_time()
        models = fit_all(jobs)
        took["fit_1000_ms"].append(time.process_time() - began)
        began = time.process_time()
        for points in jobs[:20]:
            fit(points)
        took["fit_one_ms"].append((time.process_time() - began) / 20)
        began = time.process_time()
        for model in models:
            model.throughput(sizes, 256)
        took["predict_1000_ms"].append(time.process_time() - began)
    print(", ".join(f"{name} {1e3 * median(seconds):.1f}" for name, seconds in took.items()))
    return {name: 1e3 * median(seconds) for name, seconds in took.items()}


if __name__ == "__main__":
    main()
