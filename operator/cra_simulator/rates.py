"""How fast each application trains at each size: the ground truth of the simulator, as tables.

A table has one row per epoch, because the noise scale grows while a model learns: what is the best size late
is a waste of GPUs early. Progress counts steps of the reference batch, so the work of a job is one number.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from cra_operator.controller.policy import Floats, Ints, Sizes
from cra_simulator.errors import DataError

Shape = tuple[int, ...]
"""GPUs on each node of a job, in order."""


@dataclass(frozen=True, kw_only=True)
class RateTable:
    """One application, trained in one way. E epochs, K sizes.

    Attributes:
        progress: Progress at the end of each epoch, [E], rising; the last is the whole work.
        rate: Progress/s in each epoch at each size, [E, K]; 0 where it does not run.
        throughput: Optimizer steps/s at each size, [K]; None when steps are steps of the reference batch.
        steps_left: Optimizer steps still to do in each epoch, [E]; None as above.
        max_gpus: Most GPUs that it can use.
        placed: Progress/s in each epoch, [E], on nodes of a given shape; None when only packed jobs are
            known.
    """

    progress: Floats
    rate: Floats
    throughput: Floats | None = None
    steps_left: Floats | None = None
    max_gpus: int
    placed: Callable[[Shape], Floats] | None = None

    def __post_init__(self) -> None:
        if len(self.progress) != len(self.rate) or (np.diff(self.progress, prepend=0.0) <= 0).any():
            raise ValueError("a rate table needs one row per epoch and progress that rises")


@dataclass(frozen=True, kw_only=True)
class RateTables:
    """Tables of several applications for the same sizes."""

    sizes: Sizes
    tables: Mapping[str, RateTable]


def read_rate_tables(path: Path) -> RateTables:
    """Read tables of rates at the best batch size (JSON, gzipped or not).

    The format, all for one type of GPU, is `{"gpus": [K], "nodes": [K], "apps": {name: {"max_replicas": n,
    "progress_at_epoch_start": [E + 1], "rate": [E][K]}}}`.

    Raises:
        DataError: The file is not of that format.
        OSError: It cannot be read.
    """
    raw = path.read_bytes()
    try:
        content = json.loads(gzip.decompress(raw) if path.suffix == ".gz" else raw)
    except json.JSONDecodeError as error:
        raise DataError(f"{path}, line {error.lineno}, column {error.colno}: {error.msg}") from None
    try:
        gpus = np.array(content["gpus"], dtype=np.int64)
        sizes = Sizes(gpus=gpus, nodes=np.array(content["nodes"], dtype=np.int64), kind=np.zeros_like(gpus))
        tables = {name: _table(app) for name, app in content["apps"].items()}
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path} is no rate table: {type(error).__name__} {error}") from error
    return RateTables(sizes=sizes, tables=tables)


def write_rate_tables(rates: RateTables, path: Path) -> None:
    """Write tables as `read_rate_tables` reads them; one type of GPU."""
    content = {
        "gpus": rates.sizes.gpus.tolist(),
        "nodes": rates.sizes.nodes.tolist(),
        "apps": {
            name: {
                "max_replicas": table.max_gpus,
                "progress_at_epoch_start": [0.0, *table.progress.tolist()],
                "rate": table.rate.tolist(),
            }
            for name, table in rates.tables.items()
        },
    }
    path.write_text(json.dumps(content))


def at_sizes(rates: RateTables, sizes: Sizes) -> RateTables:
    """Tables for the sizes of a cluster, from tables that have those among others.

    Raises:
        DataError: A size is not there.
    """
    known = {key: column for column, key in enumerate(_keys(rates.sizes))}
    missing = [key for key in _keys(sizes) if key not in known]
    if missing:
        gpus, nodes, _ = missing[0]
        raise DataError(f"the rate tables do not say how jobs do on {gpus} GPUs of {nodes} nodes")
    columns = [known[key] for key in _keys(sizes)]
    tables = {
        name: replace(
            table,
            rate=table.rate[:, columns],
            throughput=None if table.throughput is None else table.throughput[columns],
        )
        for name, table in rates.tables.items()
    }
    return RateTables(sizes=sizes, tables=tables)


def _keys(sizes: Sizes) -> list[tuple[int, int, int]]:
    return list(zip(sizes.gpus.tolist(), sizes.nodes.tolist(), sizes.kind.tolist(), strict=True))


def _table(app: Mapping[str, object]) -> RateTable:
    starts: Floats = np.array(app["progress_at_epoch_start"], dtype=float)
    limit = app["max_replicas"]
    if not isinstance(limit, int):
        raise TypeError("max_replicas must be a whole number")
    return RateTable(progress=starts[1:], rate=np.array(app["rate"], dtype=float), max_gpus=limit)


def column_of(sizes: Sizes, gpus: int, *, kind: int = 0) -> int:
    """The smallest size of a type that has at least so many GPUs; the largest if none has."""
    fits: Ints = np.flatnonzero((sizes.kind == kind) & (sizes.gpus > 0))
    enough = fits[sizes.gpus[fits] >= gpus]
    return int(enough[np.argmin(sizes.gpus[enough])] if len(enough) else fits[np.argmax(sizes.gpus[fits])])
