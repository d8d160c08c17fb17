"""The command `cra-sim`, as it is called in a shell."""

from __future__ import annotations

from pathlib import Path

import pytest

from cra_simulator.cli import main

JOBS = "name,time,application\na,0,bert\nb,30,cifar10\nc,60,ncf\n"


def written(folder: Path, text: str = JOBS, name: str = "jobs.csv") -> str:
    path = folder / name
    path.write_text(text)
    return str(path)


def test_compare_prints_a_row_for_each_policy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "--workload", written(tmp_path), "--policies", "afs", "fifo"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "all files: 1 workloads, 3 jobs"
    rows = {line.split()[0]: line.split() for line in lines[2:5]}
    assert list(rows) == ["fifo", "afs", "pollux"]
    assert rows["afs"][1] == "r"
    assert rows["pollux"][-2:] == ["1.000", "1.000-1.000"]


def test_compare_on_a_cluster_of_several_types_stands_beside_sia(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--cluster", "t4:1x4,v100:1x4", "--policies", "fifo"]
    assert main(["compare", "--workload", written(tmp_path), *arguments]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[2:4]] == ["fifo", "sia"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--policies", "best"], "there is no policy 'best'; there are fifo, static"),
        (["--cluster", "t4"], "'t4' is not TYPE:NODESxGPUS"),
        (["--cluster", "x:1x4,y:1x4"], "nothing is known of GPUs of type 'x'"),
        (["--profiles", "nowhere"], "nowhere: there is no such file or folder"),
        (["--loads", "3"], "no workloads of load 3 are shipped"),
    ],
)
def test_what_cannot_be_compared_is_said_in_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", "--policies", "fifo", "--baseline", "fifo", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_bad_workload_is_told_file_line_and_column(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path, JOBS.replace("30", "soon"))
    assert main(["compare", "--workload", path]) == 2
    assert f"{path}, line 3, column time: 'soon' is no number" in capsys.readouterr().err
    path = written(tmp_path, JOBS.replace("cifar10", "resnet"))
    assert main(["compare", "--workload", path]) == 2
    assert f"{path}, line 3, column application: 'resnet' has no profile" in capsys.readouterr().err
