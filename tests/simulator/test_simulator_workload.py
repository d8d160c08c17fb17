"""Workloads from CSV: what is read, and what a bad file is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from cra_simulator import data
from cra_simulator.errors import DataError
from cra_simulator.rates import read_rate_tables
from cra_simulator.workload import read_workload


def written(folder: Path, text: str) -> Path:
    path = folder / "jobs.csv"
    path.write_text(text)
    return path


def test_jobs_come_in_order_of_submission(tmp_path: Path) -> None:
    path = written(tmp_path, "name,time,application,num_replicas,more\nb,20,x,4,?\na,10.5,x,,?\n")
    first, second = read_workload(path)
    assert (first.name, first.submitted, first.gpus, first.batch_size) == ("a", 10.5, 0, 0)
    assert (second.name, second.gpus) == ("b", 4)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,application\n", "line 1: column time is missing"),
        ("name,time,application\n", "line 2: there are no jobs"),
        ("name,time,application\na,soon,x\n", "line 2, column time: 'soon' is no number"),
        ("name,time,application\na,1,x\nb,-1,x\n", "line 3, column time: '-1' must be a finite number"),
        ("name,time,application\na,nan,x\n", "line 2, column time: 'nan' must be a finite number"),
        ("name,time,application\na,1,x\na,2,x\n", "line 3, column name: 'a' is there twice"),
        ("name,time,application\na,1,z\n", "line 2, column application: 'z' has no profile; there are x"),
        ("name,time,application\na,1\n", "line 2, column application: is empty"),
    ],
)
def test_a_bad_file_is_told_where_it_is_bad(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_workload(written(tmp_path, text), applications=["x"])


@pytest.mark.parametrize("load", data.LOADS)
def test_the_shipped_workloads_are_whole(load: float) -> None:
    applications = read_rate_tables(data.rate_tables()).tables
    paths = data.workloads(load)
    assert len(paths) == 5
    assert all(len(read_workload(path, applications=applications)) == 160 * load for path in paths)


def test_what_is_trained_on_is_not_what_is_compared_on() -> None:
    counts = {load: len(data.training_workloads(load)) for load in data.LOADS}
    assert counts == {0.5: 10, 1.0: 40, 1.5: 0, 2.0: 10}
    arrivals = {
        kind: {tuple(job.submitted for job in read_workload(path)) for path in paths}
        for kind, paths in (
            ("training", [path for load in data.LOADS for path in data.training_workloads(load)]),
            ("comparison", [path for load in data.LOADS for path in data.workloads(load)]),
        )
    }
    assert len(arrivals["training"]) == 60
    assert not arrivals["training"] & arrivals["comparison"]


def test_what_is_no_rate_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no rate table: KeyError 'gpus'"):
        read_rate_tables(written(tmp_path, "{}"))
