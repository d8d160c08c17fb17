"""Measured profiles of the Pollux evaluation: what an application does at a given placement and batch.

A folder for each application, as the artifact has them (petuum/adaptdl, branch osdi21-artifact; every file
may be gzipped):

- `placements.csv`: `placement` (a digit for each node: GPUs used there), `local_bsz` (batch of one GPU),
  `step_time` and `sync_time` in seconds;
- `scalability.csv`: the same by `num_nodes` and `num_replicas`, for placements that were not measured; it may
  be left out;
- `validation-B.csv`: one row per epoch at total batch B: `progress` (steps of the smallest batch),
  `iteration` (real steps), `grad_sqr` and `grad_var` (squared norm and variance of the gradient);
- `application.json`: epochs, GPUs of a node and limits (see `cra_simulator.profile_files.Application`), which
  the artifact has in its code.

With B GPUs' batch M = K * m * (s + 1), of which s micro-batches of m are accumulated, one step takes
T = step + s * (step - sync) seconds and is worth r = (var + sqr) / (var * M0 / M + sqr) steps of the smallest
batch M0 (Pollux, OSDI'21, equations 5 to 9). Progress is r / T per second.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import cache, cached_property
from pathlib import Path

import numpy as np
from scipy.interpolate import LinearNDInterpolator
from scipy.spatial import QhullError

from cra_operator.controller.policy import Floats, Ints, Sizes
from cra_simulator.errors import DataError
from cra_simulator.profile_files import read_application, read_measurements
from cra_simulator.rates import RateTable, RateTables, Shape
from cra_simulator.workload import TraceJob

_TIMES = ("local_bsz", "step_time", "sync_time")


class Profile:
    """One application.

    Args:
        folder: Where its files are; its name is the application's.

    Raises:
        DataError: A file is missing or wrong.
    """

    def __init__(self, folder: Path) -> None:
        self.name = folder.name
        self._folder = folder
        self._application = read_application(folder)
        self.node_gpus = self._application.node_gpus
        placements = read_measurements(folder, "placements.csv", ("placement", *_TIMES))
        shapes = placements["placement"].astype(np.int64)
        self._measured: dict[int, Floats] = {}
        self._interpolated: dict[tuple[int, int, int], tuple[float, float]] = {}
        for shape in np.unique(shapes):
            rows = shapes == shape
            columns = [placements[name][rows] for name in _TIMES]
            self._measured[int(shape)] = np.array(columns)
        self._validated = self._read_validations()
        self.initial_batch = min(self._validated)
        self.largest_batch = max(self._validated)
        self.smallest_local = int(placements["local_bsz"].min())
        self.largest_local = self._application.largest_local_batch or int(placements["local_bsz"].max())
        self.epochs = self._application.epochs
        self.progress: Floats = np.min(
            [run["progress"][: self.epochs] for run in self._validated.values()], axis=0
        )

    def _read_validations(self) -> dict[int, dict[str, Floats]]:
        """The validation runs by batch size, rising."""
        found = {}
        for path in self._folder.glob("validation-*.csv*"):
            name = path.name.removesuffix(".gz")
            batch = name.removeprefix("validation-").removesuffix(".csv")
            if not batch.isdigit():
                raise DataError(f"{path}: the name is to be validation-B.csv, B the total batch")
            run = read_measurements(self._folder, name, ("progress", "iteration", "grad_sqr", "grad_var"))
            if len(run["progress"]) < self._application.epochs:
                raise DataError(
                    f"{path}: {len(run['progress'])} epochs are too few; application.json says "
                    f"{self._application.epochs}"
                )
            found[int(batch)] = run
        if not found:
            raise DataError(f"{self._folder}: there is no validation-B.csv")
        return {batch: found[batch] for batch in sorted(found)}

    def most_gpus(self, batch_size: int | None = None) -> int:
        """Most GPUs that a job can use, with a total batch or, for None, with the best."""
        fed = (batch_size or self.largest_batch) // self.smallest_local
        return min(fed, self._application.largest_gpus or fed)

    def step_seconds(self, shape: Shape, local_batch: int) -> tuple[float, float]:
        """Seconds of one step with its synchronisation, and of the synchronisation alone; NaN beyond what was
        measured.
        """
        turned = min(shape[i:] + shape[:i] for i in range(len(shape)))
        measured = self._measured.get(int("".join(map(str, turned))))
        if measured is not None:
            batches, step, sync = measured
            return float(np.interp(local_batch, batches, step)), float(np.interp(local_batch, batches, sync))
        point = len(shape), sum(shape), local_batch
        if point not in self._interpolated:
            self._interpolated[point] = self._interpolate(point)
        return self._interpolated[point]

    def _interpolate(self, point: tuple[int, int, int]) -> tuple[float, float]:
        """The two at so many nodes and GPUs and a local batch: beyond what was measured it takes 10 ms."""
        if self._between is None:
            return math.nan, math.nan
        step, sync = self._between([*point])[0]
        return float(step), float(sync)

    @cached_property
    def _between(self) -> LinearNDInterpolator | None:
        """Both seconds by nodes, GPUs and local batch; placements that are alike in those are averaged."""
        groups: dict[tuple[int, int, float], list[tuple[float, float]]] = {}
        for shape, (batches, steps, syncs) in self._measured.items():
            digits = [int(digit) for digit in str(shape)]
            for batch, step, sync in zip(batches, steps, syncs, strict=True):
                groups.setdefault((len(digits), sum(digits), batch), []).append((step, sync))
        points: list[Sequence[float] | Floats] = [*sorted(groups)]
        seconds = [np.mean(groups[key], axis=0) for key in sorted(groups)]
        if any((self._folder / f"scalability.csv{end}").exists() for end in ("", ".gz")):
            names = ("num_nodes", "num_replicas", *_TIMES)
            more = read_measurements(self._folder, "scalability.csv", names)
            points += _columns(more, "num_nodes", "num_replicas", "local_bsz")
            seconds += _columns(more, "step_time", "sync_time")
        try:
            return LinearNDInterpolator(np.array(points, dtype=float), np.array(seconds))
        except QhullError:  # Too few points, or all in a plane: only what was measured is known.
            return None

    def step(self, shape: Shape, batch_size: int, *, speed: float = 1.0) -> tuple[int, float, float]:
        """One optimizer step of a job that wants one total batch size.

        Args:
            shape: GPUs on each of its nodes.
            batch_size: The total batch; rounded up to what micro-batches of one size can make.
            speed: How much faster than that of the profile the GPUs compute; communication stays as it is.

        Returns:
            The batch that it has, its seconds and those of computing alone; NaN beyond what was measured.
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
        compute = (accumulated + 1) * (step - sync) / speed
        return gpus * micro * (accumulated + 1), sync + compute, compute

    def at(self, shape: Shape, batch_size: int, *, speed: float = 1.0) -> tuple[Floats, float]:
        """What a job does that wants one total batch size; arguments as of `step`.

        Returns:
            Progress/s in each epoch, [E], and optimizer steps/s; zeros beyond what was measured.
        """
        batch, seconds, _ = self.step(shape, batch_size, speed=speed)
        if math.isnan(seconds):
            return np.zeros(self.epochs), 0.0
        return self._gain(batch) / seconds, 1 / seconds

    def noise_scale(self, epoch: int, batch: int) -> float:
        """The gradient's noise scale in samples, as a job sees it in an epoch at a total batch size."""
        sqr, var = (self._by_epoch(column, batch)[epoch] for column in ("grad_sqr", "grad_var"))
        # Noise without any signal is as good as infinite, and must stay a number.
        return float(self.initial_batch * var / max(sqr, 1e-9 * var))

    def batches(self, gpus: int, count: int) -> Ints:
        """Total batch sizes to choose from, rising: from what occupies the GPUs to the largest that was
        validated, in geometric progression; or the one that may not be chosen.
        """
        if self._application.fixed_batch:
            return np.array([self._application.fixed_batch])
        least = max(self.initial_batch, gpus * self.smallest_local)
        return np.unique(np.geomspace(least, self.largest_batch, count).astype(np.int64))

    def best(self, shape: Shape, *, speed: float = 1.0) -> Floats:
        """Progress/s in each epoch, [E], at the batch size that is best there.

        The candidates are as many as in the artifact.
        """
        wanted = self.batches(sum(shape), 50)
        rates = [self.at(shape, int(batch), speed=speed)[0] for batch in wanted]
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
        most = self.most_gpus(batch_size)
        node = self.node_gpus
        rate = np.zeros((self.epochs, len(sizes)))
        throughput = np.zeros(len(sizes))
        for column, gpus in enumerate(sizes.gpus.tolist()):
            if 0 < gpus <= most:
                rest = (gpus % node,) if gpus % node else ()
                shape = (node,) * (gpus // node) + rest
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
    tables: dict[str, RateTable] = {}
    table_of = {}
    for job in jobs:
        name = table_of[job.name] = f"{job.application}, batch {job.batch_size}"
        if name not in tables:
            tables[name] = _read(profiles / job.application).table(sizes, job.batch_size)
    return RateTables(sizes=sizes, tables=tables), table_of


# One for all workloads of a process: reading takes a tenth of a second, interpolating several.
_read = cache(Profile)


def _columns(table: dict[str, Floats], *names: str) -> Sequence[Floats]:
    return list(np.array([table[name] for name in names]).T)
