"""The history of a cluster on which the operator runs.

- `kubectl get crj -A -o json`: jobs with what they had, and with the speeds at which they were measured. From
  those come rate tables, so that the simulator can run the very jobs of the cluster;
- the answer of Prometheus to a range query of `cra_operator_job_gpus`, which reaches back to jobs that were
  deleted; it tells GPUs only.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cra_operator.controller.policy import Floats, Sizes
from cra_operator.controller.speed import SpeedPoint, fit, goodput
from cra_simulator.errors import DataError
from cra_simulator.logs.logged import LoggedJob
from cra_simulator.logs.published import seconds_at
from cra_simulator.rates import RateTable, RateTables

Manifest = Mapping[str, Any]


def read_jobs(path: Path, content: Manifest) -> Iterator[LoggedJob]:
    """Jobs of `kubectl get crj -o json`.

    Raises:
        DataError: An item is no CRATrainingJob.
    """
    for place, item in _items(path, content):
        try:
            scaling = item["spec"]["scaling"]
            yield LoggedJob(
                name=job_name(item),
                submitted=seconds_at(item["metadata"]["creationTimestamp"]),
                gpus=int(scaling.get("gpus") or scaling["minGPUs"]),
                gpu_seconds=float(item.get("status", {}).get("gpuSeconds") or 0.0),
                application=application_of(item) if measured(item) else None,
            )
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{path}, item {place}: {type(error).__name__} {error}") from None


def is_job_list(content: object) -> bool:
    """Whether content is a list as kubectl prints it."""
    return isinstance(content, Mapping) and isinstance(content.get("items"), list)


def job_name(item: Manifest) -> str:
    """Namespace and name."""
    return f"{item['metadata']['namespace']}/{item['metadata']['name']}"


def application_of(item: Manifest) -> str:
    """What a job trains: a table for each job, as two jobs of one workload may differ in all but the name."""
    return job_name(item)


def measured(item: Manifest) -> bool:
    """Whether a job's speed and work are known: it was measured, and told how far it is."""
    status = item.get("status", {})
    progress = status.get("progress") or {}
    return bool(status.get("speeds") and progress.get("ratio") and progress.get("samples"))


def tables_of(path: Path, content: object, sizes: Sizes) -> RateTables:
    """Rate tables of the jobs that were measured, by the model that the operator fits.

    Args:
        path: Where the content is from.
        content: As `read_jobs` takes it.
        sizes: Sizes of a cluster with one type of GPU.

    Raises:
        DataError: An item is no CRATrainingJob.
    """
    tables = {}
    for place, item in _items(path, content):
        if measured(item):
            try:
                tables[application_of(item)] = _table(item, sizes)
            except (KeyError, TypeError, ValueError) as error:
                raise DataError(f"{path}, item {place}: {type(error).__name__} {error}") from None
    return RateTables(sizes=sizes, tables=tables)


def _table(item: Manifest, sizes: Sizes) -> RateTable:
    status, scaling = item["status"], item["spec"]["scaling"]
    base = float(item["spec"].get("training", {})["batchSize"])
    batch = float(status.get("batchSize") or base)
    points = [
        SpeedPoint(
            gpus=int(speed["gpus"]),
            nodes=int(speed["nodes"]),
            kind=0,
            batch=int(speed["batchSize"]),
            step_seconds=float(speed["stepSeconds"]),
            compute_seconds=speed.get("computeSeconds"),
        )
        for speed in status["speeds"]
    ]
    throughput: Floats = fit(points).throughput(sizes, batch)
    rate = np.asarray(goodput(throughput, batch, base, float(status.get("noiseScale") or 0.0)))
    most = int(scaling["maxGPUs"])
    rate = np.where((sizes.gpus >= int(scaling["minGPUs"])) & (sizes.gpus <= most), rate, 0.0)
    done = status["progress"]
    steps = float(done.get("scaleInvariantSteps") or float(done["samples"]) / base)
    work = steps / float(done["ratio"])
    if not rate.any():
        raise ValueError(f"{job_name(item)} fits no size of this cluster")
    return RateTable(progress=np.array([work]), rate=rate[None, :], max_gpus=most)


def _items(path: Path, content: object) -> Iterator[tuple[int, Manifest]]:
    if not isinstance(content, Mapping) or not is_job_list(content):
        raise DataError(f"{path}: this is not what kubectl get crj -o json prints")
    for place, item in enumerate(content["items"], start=1):
        if not isinstance(item, Mapping) or item.get("kind") != "CRATrainingJob":
            raise DataError(f"{path}, item {place}: this is no CRATrainingJob")
        yield place, item


def read_range(path: Path, content: Manifest) -> Iterator[LoggedJob]:
    """Jobs of a range of `cra_operator_job_gpus`: submitted with the first sample, GPUs at their most.

    Raises:
        DataError: A series has no job or no numbers.
    """
    for place, series in enumerate(content["data"]["result"], start=1):
        try:
            labels = series["metric"]
            times, gpus = np.array([[float(time), float(value)] for time, value in series["values"]]).T
            yield LoggedJob(
                name=f"{labels['namespace']}/{labels['job']}",
                submitted=float(times[0]),
                gpus=int(gpus.max()),
                gpu_seconds=float((np.diff(times) * gpus[:-1]).sum()),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{path}, series {place}: {type(error).__name__} {error}") from None
