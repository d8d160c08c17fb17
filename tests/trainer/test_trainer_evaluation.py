"""Row B4, the report per class: the figures of scikit-learn, whatever part of the test set a rank sees."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import classification_report

from cra_trainer import Classification
from cra_trainer.evaluation import by_name, lines, scores
from tests.trainer import scripts_evaluation
from tests.trainer.processes import run_ranks


def random_answers(n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores [n, 4] that are right about half of the time, and labels, among which class 3 never is."""
    generator = torch.Generator().manual_seed(n)
    labels = torch.randint(3, (n,), generator=generator)
    return torch.randn(n, 4, generator=generator) + torch.eye(4)[labels], labels


def test_the_scores_of_each_class_are_those_of_scikit_learn() -> None:
    logits, labels = random_answers(200)
    classification = Classification(["a", "b", "c", "d"])
    for part in (slice(0, 50), slice(50, 51), slice(51, 200)):
        classification.add(logits[part], labels[part])
    report = scores(by_name(classification.counts, classification.names))
    expected: dict[str, Any] = classification_report(
        labels.numpy(),
        logits.argmax(1).numpy(),
        labels=range(4),
        target_names=["a", "b", "c", "d"],
        zero_division=0,
        output_dict=True,
    )
    for name, one in report.items():
        assert one.precision == pytest.approx(expected[name]["precision"])
        assert one.recall == pytest.approx(expected[name]["recall"])
        assert one.f1 == pytest.approx(expected[name]["f1-score"])
        assert one.support == expected[name]["support"]
    macro, weighted = lines(report)[-2:]
    for line, kind in ((macro, "macro avg"), (weighted, "weighted avg")):
        told = [float(word) for word in line.split()[2:]]
        assert told == pytest.approx([float(x) for x in expected[kind].values()], abs=6e-4)


def test_classes_may_be_told_by_number_and_nothing_evaluated_is_nothing_right() -> None:
    classification = Classification(2)
    assert classification.names == ("0", "1")
    assert classification.accuracy == (0, 0)
    classification.add(torch.tensor([[0, 1], [1, 1]]), torch.tensor([[0, 1], [0, 1]]))
    assert np.array_equal(classification.counts, [[1, 2], [1, 3], [2, 2]])
    assert lines({}) == []


@pytest.mark.processes
def test_the_report_covers_the_parts_of_all_ranks_and_outlives_a_restart(tmp_path: Path) -> None:
    def run(name: str) -> list[Any]:
        return run_ranks(
            scripts_evaluation.classify,
            world_size=2,
            directory=tmp_path / name,
            config={
                "training": {"epochs": 1, "batchSize": 16},
                "allocator": {"ranks": {"strategy": "fixed", "weights": [1, 3]}},
            },
            checkpoints=tmp_path / "checkpoints",
        )

    for ranks in (run("first"), run("again")):
        assert [rank.code for rank in ranks] == [0, 0]
        told = ranks[0].message
        assert told["metrics"]["accuracy"] == pytest.approx(told["metrics"]["expected"])
        assert [one["name"] for one in told["classes"]] == ["0", "1", "2"]
        assert sum(one["support"] for one in told["classes"]) == 64
        recalled = sum(one["recall"] * one["support"] for one in told["classes"]) / 64
        assert recalled == pytest.approx(told["metrics"]["accuracy"], abs=1e-3)
    assert ranks[0].message["progress"]["samples"] == 64


@pytest.mark.processes
def test_torchmetrics_are_those_of_the_whole_set_under_unequal_shares(tmp_path: Path) -> None:
    config = {
        "training": {"epochs": 1, "batchSize": 16},
        "allocator": {"ranks": {"strategy": "fixed", "weights": [1, 3]}},
    }
    ranks = run_ranks(scripts_evaluation.by_torchmetrics, world_size=2, directory=tmp_path, config=config)
    assert [rank.code for rank in ranks] == [0, 0]
    assert [rank.record["rows"] for rank in ranks] == [16, 48]
    for name, whole in ranks[0].record["whole"].items():
        assert ranks[0].message["metrics"][name] == pytest.approx(whole, abs=1e-6)


@pytest.mark.processes
def test_a_model_may_compute_in_bfloat16_while_its_weights_stay_in_float32(tmp_path: Path) -> None:
    config = {
        "training": {"epochs": 4, "batchSize": 16},
        "allocator": {"ranks": {"strategy": "fixed", "weights": [1, 3]}},
    }
    ranks = run_ranks(scripts_evaluation.in_bfloat16, world_size=2, directory=tmp_path, config=config)
    assert [rank.code for rank in ranks] == [0, 0]
    one, other = (rank.record for rank in ranks)
    assert "torch.bfloat16" in one["types"]
    assert set(one["weights"]) == {"torch.float32"}
    assert one["losses"][-1] < one["losses"][0]
    assert one["digest"] == other["digest"]


@pytest.mark.processes
def test_the_documented_pieces_of_scripts_run_as_they_stand(tmp_path: Path) -> None:
    config = {"training": {"epochs": 2, "batchSize": 16}}
    (rank,) = run_ranks(scripts_evaluation.documented, world_size=1, directory=tmp_path, config=config)
    assert rank.code == 0
    assert rank.message["progress"]["samples"] == 2 * 64
    assert [one["name"] for one in rank.message["classes"]] == ["cat", "dog"]
