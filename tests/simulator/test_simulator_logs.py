"""Workloads from logs: of clusters that publish theirs, and of one's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cra_simulator.cli import main
from cra_simulator.cluster import POLLUX_CLUSTER
from cra_simulator.errors import DataError
from cra_simulator.logs.live import tables_of
from cra_simulator.logs.logged import LoggedJob, unique, workload_of
from cra_simulator.logs.reading import read_log
from cra_simulator.rates import read_rate_tables
from cra_simulator.workload import read_workload

HELIOS = """job_id,user,vc,gpu_num,cpu_num,node_num,state,submit_time,start_time,end_time,duration,queue
7,u,v,1,1,1,COMPLETED,2020-06-09 18:41:01,2020-06-09 18:41:01,2020-06-09 18:42:01,60,0
8,u,v,0,16,1,COMPLETED,2020-06-09 18:41:27,2020-06-09 18:41:27,2020-06-09 18:45:36,249,0
9,u,v,8,16,1,FAILED,2020-06-09 19:41:01,2020-06-09 19:51:01,2020-06-09 20:51:01,3600,600
"""
PHILLY = "timestamp,duration,num_gpus,gpu_time,cluster\n2017-10-09 07:01:55,66.0,2,132.0,11cb48\n"
ALIBABA = """job_name,task_name,inst_num,status,start_time,end_time,plan_cpu,plan_mem,plan_gpu,gpu_type
a,ps,1.0,Terminated,100.0,300.0,600.0,29.2,,MISC
a,worker,3.0,Terminated,110.0,310.0,600.0,29.2,50.0,MISC
a,evaluator,1.0,Terminated,110.0,210.0,600.0,29.2,100.0,MISC
b,worker,1.0,Running,400.0,,600.0,29.2,100.0,MISC
"""


def philly(attempts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"jobid": "x", "submitted_time": "2017-10-07 01:11:39", "attempts": attempts, "status": "Pass"}]


def attempt(start: str, end: str | None, *gpus: int) -> dict[str, Any]:
    detail = [{"ip": f"m{i}", "gpus": [f"gpu{g}" for g in range(count)]} for i, count in enumerate(gpus)]
    return {"start_time": start, "end_time": end, "detail": detail}


def job(name: str = "bert", **status: Any) -> dict[str, Any]:
    """A job that ran on one and on four GPUs, a tenth done."""
    measured = {
        "gpuSeconds": 7200.0,
        "speeds": [
            {"gpus": gpus, "nodes": 1, "batchSize": 64, "stepSeconds": seconds}
            for gpus, seconds in ((1, 1.0), (4, 0.3))
        ],
        "progress": {"samples": 6400, "ratio": 0.1},
    }
    return {
        "kind": "CRATrainingJob",
        "metadata": {"namespace": "lab", "name": name, "creationTimestamp": "2026-01-01T10:00:00Z"},
        "spec": {"scaling": {"minGPUs": 1, "maxGPUs": 8}, "training": {"batchSize": 64}},
        "status": measured | status,
    }


def written(folder: Path, name: str, content: object) -> Path:
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def read(folder: Path, name: str, content: object) -> list[tuple[str, int, float]]:
    return [(one.name, one.gpus, one.gpu_seconds) for one in read_log(written(folder, name, content))]


def test_each_log_is_told_by_its_content(tmp_path: Path) -> None:
    assert read(tmp_path, "a.csv", HELIOS) == [("7", 1, 60), ("8", 0, 0), ("9", 8, 28_800)]
    assert read(tmp_path, "b.csv", PHILLY) == [("job-1", 2, 132)]
    # One and a half GPUs of workers and one of the evaluator; of the other job the end is not known.
    assert read(tmp_path, "c.csv", ALIBABA) == [("a", 3, 1.5 * 200 + 100)]
    attempts = [
        attempt("2017-10-07 01:12:00", "2017-10-07 01:13:00", 8),
        attempt("2017-10-07 01:14:00", "2017-10-07 01:15:00", 8, 8),
        attempt("2017-10-07 01:16:00", None, 8),
    ]
    assert read(tmp_path, "d.json", philly(attempts)) == [("x", 16, 60 * 8 + 60 * 16)]
    assert read(tmp_path, "e.json", {"items": [job()]}) == [("lab/bert", 1, 7200)]
    series = {"metric": {"namespace": "lab", "job": "bert"}, "values": [[100, "1"], [160, "4"], [220, "4"]]}
    answer = {"status": "success", "data": {"resultType": "matrix", "result": [series]}}
    assert read(tmp_path, "f.json", answer) == [("lab/bert", 4, 60 + 240)]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "a,b\n1,2\n", "line 1: these are not the columns of a known log, which are: timestamp"),
        ("a.csv", HELIOS.replace("2020-06-09 19:41:01", "?"), "line 4, column submit_time: '\\?' is no date"),
        ("a.csv", HELIOS.replace(",249,", ",-1,"), "line 3, column duration: '-1' must be a finite number"),
        ("a.json", "[{", "line 1, column 3"),
        ("a.json", {}, "this is neither a list of Philly's jobs"),
        ("a.json", [{}], "entry 1: KeyError 'attempts'"),
        ("a.json", {"items": [{"kind": "Pod"}]}, "item 1: this is no CRATrainingJob"),
        ("a.json", {"items": [{"kind": "CRATrainingJob"}]}, "item 1: KeyError 'spec'"),
        ("a.json", {"data": {"resultType": "matrix", "result": [{}]}}, "series 1: KeyError 'metric'"),
    ],
)
def test_a_bad_log_is_told_where_it_is_bad(tmp_path: Path, name: str, content: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_log(written(tmp_path, name, content))


def test_a_job_gets_the_application_that_takes_about_as_much() -> None:
    logged = [
        LoggedJob(name="a", submitted=5000, gpus=2, gpu_seconds=90),
        LoggedJob(name="b", submitted=4000, gpus=1, gpu_seconds=600),
        LoggedJob(name="cpu", submitted=0, gpus=0, gpu_seconds=0),
        LoggedJob(name="b", submitted=9000, gpus=4, gpu_seconds=1, application="own"),
    ]
    takes = {"small": 100.0, "large": 1000.0}
    made = workload_of(logged, takes)
    assert [(one.name, one.submitted, one.application, one.gpus) for one in made] == [
        ("b", 0, "large", 1), ("a", 1000, "small", 2), ("b#2", 5000, "own", 4)
    ]  # fmt: skip
    assert [one.name for one in workload_of(logged, takes, begin=500, end=2000)] == ["a"]
    assert unique(["x", "y", "x", "x"]) == ["x", "y", "x#2", "x#3"]


def test_tables_of_a_cluster_say_what_was_measured(tmp_path: Path) -> None:
    path = tmp_path / "jobs.json"
    sizes = POLLUX_CLUSTER.packed_sizes()
    young = job("young", progress=None)
    tables = tables_of(path, {"items": [job(), young]}, sizes).tables
    assert list(tables) == ["lab/bert"]
    table = tables["lab/bert"]
    rate = dict(zip(sizes.gpus.tolist(), table.rate[0].tolist(), strict=True))
    assert (rate[1], rate[4]) == pytest.approx((1.0, 1 / 0.3))
    assert 1 < rate[2] < 1 / 0.3 < rate[8]
    assert rate[0] == rate[12] == 0
    assert table.progress.tolist() == [1000]
    larger = job(progress={"samples": 6400, "ratio": 0.1, "scaleInvariantSteps": 40.0})
    told = tables_of(path, {"items": [larger]}, sizes).tables["lab/bert"]
    assert told.progress.tolist() == [400], "what the steps were worth, not how many samples they had"


def test_the_history_of_a_cluster_can_be_simulated(tmp_path: Path) -> None:
    later = job("later", speeds=[], gpuSeconds=3000.0)
    later["metadata"]["creationTimestamp"] = "2026-01-01T11:00:00Z"
    log = written(tmp_path, "jobs.json", {"items": [later, job()]})
    out, tables = tmp_path / "out.csv", tmp_path / "tables.json"
    assert main(["convert", str(log), "--out", str(out), "--tables", str(tables)]) == 0
    first, second = read_workload(out)
    assert (first.name, first.submitted, first.application) == ("lab/bert", 0, "lab/bert")
    assert (second.name, second.submitted, second.application) == ("lab/later", 3600, "cifar10")
    assert np.flatnonzero(read_rate_tables(tables).tables["lab/bert"].rate[0]).tolist() == [1, 2, 3, 4]
    arguments = ["--workload", str(out), "--profiles", str(tables), "--policies", "afs"]
    assert main(["compare", *arguments]) == 0


def test_convert_writes_what_compare_reads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = written(tmp_path, "helios.csv", HELIOS)
    assert main(["convert", str(log)]) == 0
    out = written(tmp_path, "workload.csv", capsys.readouterr().out)
    assert [(one.name, one.submitted, one.gpus) for one in read_workload(out)] == [
        ("7", 0, 1),
        ("9", 3600, 8),
    ]
    assert main(["convert", str(log), "--hours", "0.5", "--out", str(out)]) == 0
    assert len(read_workload(out)) == 1
    assert main(["convert", str(log), "--start", "100"]) == 2
    assert "no job held GPUs in that time" in capsys.readouterr().err
