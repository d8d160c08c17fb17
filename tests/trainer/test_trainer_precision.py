"""float16: small gradients survive, and a step that overflows is none, on every rank alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.trainer import scripts_precision as scripts
from tests.trainer.processes import run_ranks

pytestmark = pytest.mark.processes


def job(weights: list[float], epochs: int = 3) -> dict[str, Any]:
    return {
        "training": {"batchSize": 20, "epochs": epochs, "seed": 7},
        "allocator": {"ranks": {"strategy": "fixed", "weights": weights}},
        "checkpoint": {"intervalSeconds": 3600},
    }


@pytest.mark.parametrize(
    ("weights", "at_most", "sharded"),
    [([1.0], None, False), ([5.0, 0.7], None, False), ([0.7, 3.1], 4, False), ([0.7, 3.1], 4, True)],
)
def test_scaled_training_is_that_of_one_process_and_passes_over_the_same_steps(
    tmp_path: Path, weights: list[float], at_most: int | None, sharded: bool
) -> None:
    ranks = run_ranks(
        scripts.beside_one_process, at_most, sharded,
        world_size=len(weights), directory=tmp_path, config=job(weights),
    )  # fmt: skip
    assert [rank.code for rank in ranks] == [0] * len(weights)
    for rank in ranks:
        assert rank.record["skipped"] == [True] * 3
        assert len(rank.record["gradients"]) == 6
        assert max(rank.record["gradients"]) <= 1e-5
        assert max(rank.record["weights"]) <= 1e-5
        assert all(mine == expected for mine, expected in rank.record["scales"])
    assert len({scale for scale, _ in ranks[0].record["scales"]}) > 2


def test_noise_is_measured_on_gradients_that_are_not_scaled(tmp_path: Path) -> None:
    measured = []
    for at_most in (None, 4):
        ranks = run_ranks(
            scripts.beside_one_process, at_most,
            world_size=2, directory=tmp_path / str(at_most), config=job([3.0, 1.0]),
        )  # fmt: skip
        measured.append(ranks[0].record["noise"])
    assert measured[0] == pytest.approx(measured[1], rel=1e-3)
    # One sample's gradient has a norm of about one; scaled it would have one of tens of thousands.
    assert 0 < measured[0][0] < 100


def test_the_scale_goes_on_from_the_checkpoint(tmp_path: Path) -> None:
    first, second = (
        run_ranks(
            scripts.beside_one_process, None,
            world_size=2, directory=tmp_path / str(epochs), config=job([1.0, 2.0], epochs),
            checkpoints=tmp_path / "kept",
        )
        for epochs in (1, 2)
    )  # fmt: skip
    last = first[0].record["scales"][-1][0]
    assert last != 2.0**16
    assert [rank.record["first_scale"] for rank in second] == [last, last]


def test_gradients_too_small_for_float16_are_learnt_from_with_a_scaler_only(tmp_path: Path) -> None:
    learnt = [
        run_ranks(
            scripts.small_gradients, scaled,
            world_size=2, directory=tmp_path / str(scaled), config=job([1.0, 2.0]),
        )[0].record["learnt"]
        for scaled in (False, True)
    ]  # fmt: skip
    assert learnt[0] == 0
    assert learnt[1] > 0.01
