"""The command `cra-sim`, as it is called in a shell."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from cra_operator.controller.policies.store import load_tensors
from cra_simulator.cli import main
from cra_simulator.cli.compare import chosen
from cra_simulator.training_logs import read_curves
from tests.simulator.tiny import Tiny

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


def test_what_was_learned_never_stands_alone() -> None:
    assert chosen(["ppo"], "pollux", several=False) == ["afs", "pollux", "goodput-untuned", "goodput", "ppo"]
    assert chosen(["ppo"], "sia", several=True) == ["sia", "goodput-untuned", "goodput", "ppo"]
    assert chosen(["fifo"], "pollux", several=False) == ["fifo", "pollux"]


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


def test_replay_tells_every_change_of_size(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = tmp_path / "sizes.csv"
    arguments = ["--policy", "fifo", "--cluster", "t4:1x4", "--csv", str(sizes)]
    assert main(["replay", "--workload", written(tmp_path), *arguments]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [float(line[0]) for line in lines[:-1]] == sorted(float(line[0]) for line in lines[:-1])
    assert [line[3:] for line in lines if line[2] == "b"][:2] == [["waits"], ["1", "t4"]]
    rows = sizes.read_text().splitlines()
    assert rows[:3] == ["name,start,end,gpus,type", "a,0.0,60.0,0,", rows[2]]
    assert rows[2].startswith("a,60.0,")
    assert rows[2].endswith(",1,t4")


def test_replay_of_one_job_tells_of_no_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path)
    assert main(["replay", "--workload", path, "--policy", "afs", "--job", "c"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert {line.split()[2] for line in lines[:-1]} == {"c"}
    assert main(["replay", "--workload", path, "--policy", "afs", "--job", "d"]) == 2
    assert "there is no job 'd'" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["gantt", "jct"])
def test_plot_draws_runs(tmp_path: Path, kind: str) -> None:
    out = tmp_path / "picture.png"
    arguments = ["--policies", "fifo", "afs", "--out", str(out)]
    assert main(["plot", kind, "--workload", written(tmp_path), *arguments]) == 0
    assert out.read_bytes().startswith(b"\x89PNG")


def test_plot_draws_learning_curves(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for run in ("one", "two"):
        writer = EventFileWriter(str(tmp_path / run))
        for step in range(3):
            loss = Summary(value=[Summary.Value(tag="loss", simple_value=float(step))])
            writer.add_event(Event(step=step, summary=loss))
        writer.close()
    steps, values = read_curves([tmp_path], "loss")["two"]
    assert (steps.tolist(), values.tolist()) == ([0, 1, 2], [0, 1, 2])
    out = tmp_path / "curves.png"
    assert main(["plot", "curves", str(tmp_path), "--tag", "loss", "--out", str(out)]) == 0
    assert out.read_bytes().startswith(b"\x89PNG")
    assert main(["plot", "curves", str(tmp_path), "--tag", "reward"]) == 2
    assert "no run has 'reward'; there are loss" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert main(["plot", "curves", str(tmp_path / "empty")]) == 2
    assert "there are no TensorBoard logs" in capsys.readouterr().err


def test_train_leaves_weights_and_logs_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("cra_simulator.learning.worlds.pollux_curriculum", Tiny)
    out = tmp_path / "run"
    for steps in ("1", "2"):
        assert main(["train", "q-learning", "--out", str(out), "--steps", steps]) == 0
    tensors, _ = load_tensors("q-learning", out / "weights")
    assert all(np.isfinite(tensor).all() for tensor in tensors.values())
    made, scores = read_curves([out], "score")["run"]
    assert made.tolist()[-1] == 2
    assert f"{scores.min():.4f} after" in capsys.readouterr().out
    assert main(["train", "guessing", "--out", str(out)]) == 2
    assert "there is no learner 'guessing'; there are evolution" in capsys.readouterr().err
