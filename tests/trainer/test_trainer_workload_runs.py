"""Rows A10 and B8, the workloads as jobs: two real ranks run each from its first line to its result."""

from __future__ import annotations

import csv
import importlib
from pathlib import Path
from typing import Any

import pytest

from tests.trainer.processes import Ended, run_ranks

pytestmark = pytest.mark.processes


def start(record: dict[str, Any], module: str) -> None:
    """Run a workload's main function as a rank of a job."""
    importlib.import_module(f"cra_trainer.workloads.{module}").main()


def run(
    module: str,
    directory: Path,
    parameters: dict[str, str],
    *,
    epochs: int = 1,
    checkpoints: Path | None = None,
) -> Ended:
    """Run a workload on two ranks; returns how rank 0 ended."""
    ranks = run_ranks(
        start,
        module,
        world_size=2,
        directory=directory,
        checkpoints=checkpoints,
        config={
            "workload": {"name": module, "parameters": parameters},
            "training": {"epochs": epochs, "batchSize": 64, "optimizer": {"learningRate": 0.003}},
            "allocator": {
                "ranks": {"strategy": "fixed", "weights": [1, 2]},
                "layers": {"computeBudget": 0.5} if module == "fine_tune" else {},
                "tasks": {"strategy": "adaptive"},
            },
        },
    )
    assert [rank.code for rank in ranks] == [0, 0], ranks
    return ranks[0]


@pytest.mark.parametrize(
    ("module", "parameters", "metric", "least"),
    [
        ("attention_28x28", {"gate": "local"}, "accuracy", 0.5),
        ("rnn_signal", {"cell": "lstm"}, "accuracy", 0.2),
        ("fine_tune", {"width": "8"}, "accuracy", 0.3),
        ("multi_task", {"width": "8"}, "turn_accuracy", 0.4),
    ],
)
def test_a_workload_trains_and_reports_every_class(
    tmp_path: Path, module: str, parameters: dict[str, str], metric: str, least: float
) -> None:
    told = run(module, tmp_path, parameters).message
    assert told["progress"]["samples"] == 1437
    assert told["metrics"][metric] > least
    assert [one["name"] for one in told["classes"]] == [str(i) for i in range(10)]
    if module == "multi_task":
        weights = [told["metrics"][f"weight_{task}"] for task in ("digit", "turn")]
        assert sum(weights) == pytest.approx(2, abs=1e-5)
        assert weights[0] != weights[1]


def test_a_text_of_tokens_is_foreseen_and_told_per_byte(tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("\n".join(f"{i} times {j} is {i * j}" for i in range(60) for j in range(20)))
    parameters = {"vocabulary": "320", "context": "16", "width": "16", "layers": "1", "path": str(text)}
    metrics = run("char_transformer", tmp_path, parameters, epochs=3).message["metrics"]
    # To guess any of the 320 tokens costs log 320 = 5.8, and to guess any of 20 characters 4.3 bits.
    assert metrics["test_loss"] < 4.7
    assert metrics["bits_per_byte"] < 3.2
    # A token has more than one byte.
    assert metrics["test_loss"] / 0.6931 > 1.2 * metrics["bits_per_byte"]


def test_new_data_goes_on_from_the_checkpoint_and_inference_reads_it(tmp_path: Path) -> None:
    kept = tmp_path / "checkpoints"

    def arrived(n: str, epochs: int) -> dict[str, Any]:
        parameters = {"arrived": n, "width": "8"}
        return run("continual", tmp_path / n, parameters, epochs=epochs, checkpoints=kept).message

    first = arrived("300", 2)
    assert first["progress"]["samples"] == 2 * 300
    later = arrived("700", 4)
    # 400 are new, and the 300 that were known come again.
    assert later["progress"]["samples"] == 2 * 300 + 2 * 700
    assert later["metrics"]["accuracy"] > first["metrics"]["accuracy"]

    before = {path: path.stat().st_mtime_ns for path in kept.rglob("*")}
    answers = tmp_path / "answers"
    parameters = {"width": "8", "output": str(answers)}
    inferred = run("infer", tmp_path / "infer", parameters, checkpoints=kept).message
    assert {path: path.stat().st_mtime_ns for path in kept.rglob("*")} == before
    rows = [row for file in sorted(answers.iterdir()) for row in csv.DictReader(file.open())]
    assert len(rows) == 1797
    right = sum(row["class"] == row["answer"] for row in rows) / len(rows)
    assert inferred["metrics"]["accuracy"] == pytest.approx(right)
    assert right > 0.3


def test_without_a_checkpoint_there_is_nothing_to_infer_from(tmp_path: Path) -> None:
    ranks = run_ranks(start, "infer", world_size=1, directory=tmp_path, checkpoints=tmp_path / "none")
    assert ranks[0].code == 1
    assert "there is no checkpoint to infer from" in ranks[0].message["error"]["message"]
