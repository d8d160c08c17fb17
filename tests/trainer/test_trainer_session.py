"""Whole trainings over real processes: exact gradients, one stream of samples, and ends that explain
themselves.
"""

from __future__ import annotations

import itertools
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.trainer import scripts
from tests.trainer.processes import run_ranks

pytestmark = pytest.mark.processes


def job(batch: int = 16, epochs: int = 2, strategy: str = "uniform", **ranks: Any) -> dict[str, Any]:
    return {
        "training": {"batchSize": batch, "epochs": epochs, "seed": 7},
        "allocator": {"ranks": {"strategy": strategy, **ranks}},
        "checkpoint": {"intervalSeconds": 3600},
    }


@pytest.mark.parametrize(
    ("weights", "size", "per_row"),
    [
        ([1.0], 50, False),
        ([0.7, 3.1], 50, False),
        # The last batch of 2 rows leaves a rank without any.
        ([5.0, 1.0, 2.3], 62, False),
        ([1.2, 0.4, 3.3, 2.2], 62, True),
    ],
)
def test_unequal_shares_give_the_gradient_of_one_process(
    tmp_path: Path, weights: list[float], size: int, per_row: bool
) -> None:
    config = job(batch=20, strategy="fixed", weights=weights)
    ranks = run_ranks(
        scripts.gradients, size, per_row, world_size=len(weights), directory=tmp_path, config=config
    )
    assert [rank.code for rank in ranks] == [0] * len(weights)
    steps = -(-size // 20)
    for rank in ranks:
        assert len(rank.record["errors"]) == 2 * steps
        assert max(rank.record["errors"]) <= 1e-5
    # What a rank without rows computes for form's sake is a row of another rank, and is not trained again.
    owners = [rank for rank in ranks if len(rank.record["rows"][0]) > 0]
    assert len({len(rank.record["rows"][0]) for rank in owners}) == len(set(weights))
    trained = ranks[0].message["progress"]
    assert trained["samples"] == 2 * size
    assert trained["ratio"] == 1.0


def test_gradients_in_half_precision_carry_the_table_too(tmp_path: Path) -> None:
    config = job(batch=20, strategy="fixed", weights=[1, 2])
    ranks = run_ranks(
        scripts.gradients, 60, False, torch.bfloat16, world_size=2, directory=tmp_path, config=config
    )
    assert [rank.code for rank in ranks] == [0, 0]
    assert max(ranks[0].record["errors"]) < 0.05


def test_the_session_does_no_collective_that_ddp_alone_would_not_do(tmp_path: Path) -> None:
    ranks = run_ranks(scripts.collectives, world_size=2, directory=tmp_path, config=job(strategy="attention"))
    assert [rank.code for rank in ranks] == [0, 0]
    for rank in ranks:
        assert rank.record["session"] == rank.record["ddp"]
        assert rank.record["session"].count("gloo:all_reduce") == 64 // 16


def test_a_loss_that_is_not_of_the_prepared_model_says_so(tmp_path: Path) -> None:
    (rank,) = run_ranks(scripts.beside_the_model, world_size=1, directory=tmp_path, config=job())
    assert rank.code == 0
    assert "session.prepare" in rank.record["inner"]
    assert "head.weight" in rank.record["model"]


def test_the_compute_time_of_a_step_reaches_to_its_last_gradient(tmp_path: Path) -> None:
    (rank,) = run_ranks(scripts.slow_at_the_end, world_size=1, directory=tmp_path, config=job())
    assert len(rank.record["seconds"]) == 4
    assert min(rank.record["seconds"]) >= 0.05


def trained(ranks: list[Any]) -> Counter[tuple[int, int]]:
    return Counter((epoch, n) for rank in ranks for epoch, rows in rank.record["seen"] for n in rows)


def test_sigterm_to_rank_0_stops_all_in_one_step_and_the_rest_goes_on_as_if_nothing_had_been(
    tmp_path: Path,
) -> None:
    kept = tmp_path / "checkpoints"

    def train(name: str, stop_at: int | None, checkpoints: Path | None, world_size: int = 2) -> list[Any]:
        return run_ranks(
            scripts.stream,
            60,
            stop_at,
            world_size=world_size,
            directory=tmp_path / name,
            config=job(batch=16, epochs=3),
            checkpoints=checkpoints,
        )

    whole = train("whole", None, None)
    stopped = train("stopped", 6, kept)
    assert [rank.code for rank in stopped] == [143, 143]
    assert [rank.message["outcome"] for rank in stopped] == ["left", "left"]
    # The signal comes when the gradients of step 6 have been reduced, so the others learn of it in step 7.
    assert [rank.message["progress"]["step"] for rank in stopped] == [7, 7]
    assert stopped[0].message["checkpoint"]["step"] == 7

    shutil.copytree(kept, tmp_path / "copy")
    resumed = train("resumed", None, kept)
    assert [rank.code for rank in resumed] == [0, 0]
    for before, after, reference in zip(stopped, resumed, whole, strict=True):
        assert before.record["seen"] + after.record["seen"] == reference.record["seen"]
        assert after.record["weights"] == reference.record["weights"]
        assert after.record["rate"] == reference.record["rate"]
    assert resumed[0].message["metrics"] == whole[0].message["metrics"]
    assert resumed[0].message["progress"]["samples"] == 180

    # At another size the stream of samples is still the same, dealt out anew.
    alone = train("alone", None, tmp_path / "copy", world_size=1)
    assert [rank.code for rank in alone] == [0]
    assert trained(stopped + alone) == Counter(itertools.product(range(3), range(60)))


def test_when_a_script_raises_its_rank_says_what_and_where_and_the_others_go_on(tmp_path: Path) -> None:
    ranks = run_ranks(scripts.die, 1, world_size=2, directory=tmp_path, config=job(epochs=5))
    assert [rank.code for rank in ranks] == [0, 1]
    error = ranks[1].message["error"]
    assert ranks[1].message["outcome"] == "failed"
    assert (error["type"], error["message"]) == ("ValueError", "the labels are upside down")
    assert error["where"].startswith("tests/trainer/scripts.py:")
    assert error["where"].endswith(" in die")
    assert ranks[0].message["outcome"] == "succeeded"


def test_a_truncated_checkpoint_is_passed_over_and_the_result_says_so(tmp_path: Path) -> None:
    kept = tmp_path / "checkpoints"
    config = job(epochs=1) | {"checkpoint": {"intervalSeconds": 0.001, "keep": 100}}

    def train(name: str, epochs: int) -> Any:
        config["training"]["epochs"] = epochs
        directory = tmp_path / name
        return run_ranks(scripts.plain, world_size=1, directory=directory, config=config, checkpoints=kept)[0]

    assert train("first", 1).record["steps"] == 4
    newest = max(kept.glob("step-*"))
    for path in kept.iterdir():
        if path.name.startswith("step-000000000004"):
            with (path / "state.pt").open("r+b") as file:
                file.truncate(1000)
    second = train("second", 2)
    assert second.code == 0
    told = second.message["checkpoint"]
    assert told["rejected"][0].startswith(f"{newest.name}: state.pt has 1000 bytes, the manifest says ")
    # Nothing is lost but what came after the newest good one.
    assert second.message["progress"]["samples"] == 128
    assert 4 < second.record["steps"] <= 8


def test_a_finished_training_that_is_started_again_only_repeats_its_result(tmp_path: Path) -> None:
    def train(name: str) -> Any:
        return run_ranks(
            scripts.plain,
            world_size=1,
            directory=tmp_path / name,
            config=job(),
            checkpoints=tmp_path / "checkpoints",
        )[0]

    first, again = train("first"), train("again")
    assert first.record["steps"] == 8
    assert again.code == 0
    assert again.record["steps"] == 0
    assert again.message["metrics"] == first.message["metrics"]


@pytest.mark.parametrize(
    ("training", "epochs"),
    [
        ({"targetMetric": {"name": "accuracy", "value": 0.0}}, 1),
        ({"targetMetric": {"name": "accuracy", "value": 1.1}}, 5),
        ({"earlyStopping": {"patience": 2, "minDelta": 1.0}}, 3),
    ],
)
def test_training_ends_when_its_goal_is_reached(
    tmp_path: Path, training: dict[str, Any], epochs: int
) -> None:
    config = job(epochs=5)
    config["training"] |= training
    ranks = run_ranks(scripts.plain, world_size=2, directory=tmp_path, config=config)
    assert [rank.code for rank in ranks] == [0, 0]
    assert [rank.record["epochs"] for rank in ranks] == [list(range(epochs))] * 2
    message = ranks[0].message
    assert message["outcome"] == "succeeded"
    assert message["progress"]["ratio"] == 1.0
    assert [one["rank"] for one in message["ranks"]] == [0, 1]
    assert sum(one["share"] for one in message["ranks"]) == pytest.approx(1)
    assert sum(one["weight"] for one in message["ranks"]) == pytest.approx(1)
    assert all(one["performance"] is not None for one in message["ranks"])
    assert "performance" not in ranks[1].message


def test_the_documented_script_runs_as_it_stands(tmp_path: Path) -> None:
    ranks = run_ranks(scripts.documented, world_size=2, directory=tmp_path, config=job())
    assert [rank.code for rank in ranks] == [0, 0]
    assert ranks[0].message["progress"]["samples"] == 2 * 64
    assert 0 < ranks[0].message["metrics"]["accuracy"] < 1


def test_a_call_that_the_contract_excludes_says_what_to_do_instead(tmp_path: Path) -> None:
    rank = run_ranks(scripts.misuse, world_size=1, directory=tmp_path, config=job(batch=4))[0]
    assert rank.record["said"] == [
        "session.epochs(): call session.prepare(model, optimizer) first",
        "session.backward(): call it once for each batch of session.batches()",
        "session.prepare(): was called before; prepare model, optimizer and all else at once",
        "session.batches(): the data set is empty; give at least one sample",
        "session.step(): call session.backward(loss) for this batch first",
        "session.backward(): expected one mean loss or 4 losses, one per row, got shape [4, 3]",
        "session.finish(): call session.backward(loss) and session.step() for each batch first",
    ]


def test_a_wrong_configuration_fails_with_the_name_of_the_field(tmp_path: Path) -> None:
    config = job() | {"training": {"batchSize": "many"}}
    rank = run_ranks(scripts.plain, world_size=1, directory=tmp_path, config=config)[0]
    assert rank.code == 1
    assert rank.message["error"]["type"] == "ConfigError"
    assert (
        rank.message["error"]["message"]
        == 'CRA_CONFIG.training.batchSize: expected a whole number, got "many"'
    )
    assert rank.message["error"]["where"].endswith(" in plain")
