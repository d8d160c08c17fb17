"""Measured profiles of the Pollux evaluation: what an application does at a given placement and batch.

A folder for each application, as the artifact has them (petuum/adaptdl, branch osdi21-artifact; every file
may be gzipped):

- `placements.csv`: `placement` (a digit for each node: GPUs used there), `local_bsz` (batch of one GPU),
  `step_time` and `sync_time` in seconds, measured on nodes of four T4;
- `scalability.csv`: the same by `num_nodes` and `num_replicas`, for placements that were not measured;
- `validation-B.csv`: one row per epoch at total batch B: `progress` (steps of the smallest batch),
  `iteration` (real steps), `grad_sqr` and `grad_var` (squared norm and variance of the gradient).

With B GPUs' batch M = K * m * (s + 1), of which s micro-batches of m are accumulated, one step takes
T = step + s * (step - sync) seconds and is worth r = (var + sqr) / (var * M0 / M + sqr) steps of the smallest
batch M0 (Pollux, OSDI'21, equations 5 to 9). Progress is r / T per second.
"""

from __future__ import annotations

import csv
import gzip
import math
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from scipy.interpolate import LinearNDInterpolator

from cra_operator.controller.policy import Floats, Sizes
from cra_simulator.rates import RateTable, RateTables, Shape
from cra_simulator.workload import TraceJob

EPOCHS = {"bert": 2, "cifar10": 100, "ncf": 10, "imagenet": 90, "deepspeech2": 80, "yolov3": 50}
"""Epochs that a job of the evaluation trains."""
LARGEST_LOCAL_BATCH = {"yolov3": 8}
"""Where less fits into a GPU than was profiled."""
SINGLE_GPU = frozenset({"ncf"})
"""Applications that the evaluation never distributes."""
FIXED_BATCH = {"ncf": 32768}
"""Applications whose batch size Pollux does not choose in the evaluation."""
NODE_GPUS = 4


class Profile:
    """One application.

    Args:
        folder: Where its files are; its name is the application's.
    """

    def __init__(self, folder: Path) -> None:
        self.name = folder.name
        self._folder = folder
        placements = self._read("placements.csv")
        shapes = placements["placement"].astype(np.int64)
        self._measured: dict[int, Floats] = {}
        for shape in np.unique(shapes):
            rows = shapes == shape
            columns = [placements[name][rows] for name in ("local_bsz", "step_time", "sync_time")]
            self._measured[int(shape)] = np.array(columns)
        by_batch = {int(path.name.split("-")[1].split(".")[0]): path for path in folder.glob("validation-*")}
        self._validated = {batch: self._read(by_batch[batch].name) for batch in sorted(by_batch)}
        self.initial_batch = min(self._validated)
        self.largest_batch = max(self._validated)
        self.smallest_local = int(placements["local_bsz"].min())
        self.largest_local = LARGEST_LOCAL_BATCH.get(self.name, int(placements["local_bsz"].max()))
        self.epochs = EPOCHS[self.name]
        self.progress: Floats = np.min(
            [run["progress"][: self.epochs] for run in self._validated.values()], axis=0
        )

    def _read(self, name: str) -> dict[str, Floats]:
        path = self._folder / name
        packed = path if path.suffix == ".gz" else path.with_name(f"{name}.gz")
        text = gzip.decompress(packed.read_bytes()).decode() if packed.exists() else path.read_text()
        header, *rows = csv.reader(text.splitlines())
        values = np.array(rows, dtype=float)
        return {column: values[:, i] for i, column in enumerate(header)}

    def step_seconds(self, shape: Shape, local_batch: int) -> tuple[float, float]:
        """Seconds of one step with its synchronisation, and of the synchronisation alone."""
        turned = min(shape[i:] + shape[:i] for i in range(len(shape)))
        measured = self._measured.get(int("".join(map(str, turned))))
        if measured is not None:
            batches, step, sync = measured
            return float(np.interp(local_batch, batches, step)), float(np.interp(local_batch, batches, sync))
        step, sync = self._between([min(len(shape), 16), sum(shape), local_batch])[0]
        return float(step), float(sync)

    @cached_property
    def _between(self) -> LinearNDInterpolator:
        """Both seconds by nodes, GPUs and local batch; placements that are alike in those are averaged."""
        groups: dict[tuple[int, int, float], list[tuple[float, float]]] = {}
        for shape, (batches, steps, syncs) in self._measured.items():
            digits = [int(digit) for digit in str(shape)]
            for batch, step, sync in zip(batches, steps, syncs, strict=True):
                groups.setdefault((len(digits), sum(digits), batch), []).append((step, sync))
        more = self._read("scalability.csv")
        points = [*sorted(groups), *_columns(more, "num_nodes", "num_replicas", "local_bsz")]
        seconds = [np.mean(groups[key], axis=0) for key in sorted(groups)]
        return LinearNDInterpolator(
            np.array(points, dtype=float), np.array([*seconds, *_columns(more, "step_time", "sync_time")])
        )

    def at(self, shape: Shape, batch_size: int, *, speed: float = 1.0) -> tuple[Floats, float]:
        """What a job does that wants one total batch size.

        Args:
            shape: GPUs on each of its nodes.
            batch_size: The total batch; rounded up to what micro-batches of one size can make.
            speed: How much faster than that of the profile the GPUs compute; communication stays as it is.

        Returns:
            Progress/s in each epoch, [E], and optimizer steps/s.
        """
        gpus = sum(shape)
        local = math.ceil(batch_size / gpus - 1e-8)
        accumulated = math.ceil(local / self.largest_local - 1e-8) - 1
        if gpus == 1 and batch_size > self.initial_batch:
            # The noise of the gradient can only be measured from two samples.
            accumulated = max(1, accumulated)
        micro = math.ceil(local / (accumulated + 1) - 1e-8)
        micro = min(micro, self.largest_batch // (gpus * (accumulated + 1)))
        step, sync = self.step_seconds(shape, micro)
        seconds = sync + (accumulated + 1) * (step - sync) / speed
        return self._gain(gpus * micro * (accumulated + 1)) / seconds, 1 / seconds

    def best(self, shape: Shape, *, speed: float = 1.0) -> Floats:
        """Progress/s in each epoch, [E], at the batch size that is best there.

        The candidates are those of the artifact: 50 in geometric progression, from what occupies the GPUs to
        the largest batch that was validated.
        """
        least = max(self.initial_batch, sum(shape) * self.smallest_local)
        if self.name in FIXED_BATCH:
            return self.at(shape, FIXED_BATCH[self.name], speed=speed)[0]
        wanted = np.geomspace(least, self.largest_batch, 50).astype(int)
        rates = [self.at(shape, int(batch), speed=speed)[0] for batch in np.unique(wanted)]
        best: Floats = np.max(rates, axis=0)
        return best

    def _gain(self, batch: int) -> Floats:
        sqr, var = self._by_epoch("grad_sqr", batch), self._by_epoch("grad_var", batch)
        return (var + sqr) / (var * self.initial_batch / batch + sqr)

    def _by_epoch(self, column: str, batch: int) -> Floats:
        """A column of the validation runs, [E], linear between the batch sizes that were run."""
        sizes = list(self._validated)
        above = min(int(np.searchsorted(sizes, batch)), len(sizes) - 1)
        below = above if sizes[above] == batch else max(above - 1, 0)
        low, high = (self._validated[sizes[i]][column][: self.epochs] for i in (below, above))
        if below == above:
            return low
        part = (batch - sizes[below]) / (sizes[above] - sizes[below])
        return (1 - part) * low + part * high

    def table(self, sizes: Sizes, batch_size: int) -> RateTable:
        """Rates of a job whose batch size stays, as its owner tuned it. One type of GPU only."""
        most = 1 if self.name in SINGLE_GPU else batch_size // self.smallest_local
        rate = np.zeros((self.epochs, len(sizes)))
        throughput = np.zeros(len(sizes))
        for column, gpus in enumerate(sizes.gpus.tolist()):
            if 0 < gpus <= most:
                rest = (gpus % NODE_GPUS,) if gpus % NODE_GPUS else ()
                shape = (NODE_GPUS,) * (gpus // NODE_GPUS) + rest
                rate[:, column], throughput[column] = self.at(shape, batch_size)
        steps = self._by_epoch("iteration", batch_size)
        return RateTable(
            progress=self.progress,
            rate=rate,
            throughput=throughput,
            # As the artifact's oracle has it: from the end of the epoch, and 1 in the last.
            steps_left=np.maximum(steps[-1] - steps, 1.0),
            max_gpus=min(most, int(sizes.gpus.max())),
            placed=lambda shape: self.at(shape, batch_size)[0],
        )


def tuned_tables(jobs: Iterable[TraceJob], sizes: Sizes, profiles: Path) -> tuple[RateTables, dict[str, str]]:
    """Tables for jobs that keep the batch size of their owner.

    Args:
        jobs: The workload.
        sizes: The sizes on offer.
        profiles: A folder of profiles, one sub-folder for each application.

    Returns:
        The tables, and the name of each job's table.
    """
    known: dict[str, Profile] = {}
    tables: dict[str, RateTable] = {}
    table_of = {}
    for job in jobs:
        name = table_of[job.name] = f"{job.application}, batch {job.batch_size}"
        if name not in tables:
            profile = known.setdefault(job.application, Profile(profiles / job.application))
            tables[name] = profile.table(sizes, job.batch_size)
    return RateTables(sizes=sizes, tables=tables), table_of


def _columns(table: dict[str, Floats], *names: str) -> Sequence[Floats]:
    return list(np.array([table[name] for name in names]).T)
