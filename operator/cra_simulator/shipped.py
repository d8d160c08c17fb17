"""The workloads that ship, by load; those of a load far beyond them are put together from them."""

from __future__ import annotations

from typing import Literal

from cra_simulator import data
from cra_simulator.errors import DataError
from cra_simulator.workload import TraceJob, merge, read_workload

OVERLOAD = 5.0
"""A load at which the cluster never catches up; nothing is trained on it."""


def shipped_workloads(load: float | Literal["realistic"]) -> dict[str, tuple[TraceJob, ...]]:
    """Workloads of a load by name.

    Args:
        load: One of `data.LOADS` or `OVERLOAD`; or `realistic`, which is 1.0 with jobs that ask for what
            users ask for.

    Raises:
        DataError: There are none of that load.
    """
    if load == OVERLOAD:
        twice, once = shipped_workloads(2.0), shipped_workloads(1.0)
        names = list(twice)
        return {
            name: merge({"a": twice[name], "b": twice[following], "c": once[last]})
            for name, following, last in zip(names, names[1:] + names[:1], names[2:] + names[:2], strict=True)
        }
    if load == "realistic":
        return {path.stem: read_workload(path) for path in data.realistic_workloads()}
    if load not in data.LOADS:
        known = ", ".join(f"{load:g}" for load in (*data.LOADS, OVERLOAD))
        raise DataError(f"no workloads of load {load:g} are shipped; there are {known}, realistic")
    return {path.stem: read_workload(path) for path in data.workloads(load)}
