"""Pieces of a batch, clipping and ignored tokens: as one process on the whole batch has them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.trainer import scripts_exact as scripts
from tests.trainer.processes import run_ranks

pytestmark = pytest.mark.processes


def job(weights: list[float], strategy: str = "fixed") -> dict[str, Any]:
    ranks = {"strategy": strategy, "weights": weights} if weights else {"strategy": strategy}
    return {
        "training": {"batchSize": 20, "epochs": 2, "seed": 7},
        "allocator": {"ranks": ranks},
        "checkpoint": {"intervalSeconds": 3600},
    }


@pytest.mark.parametrize(
    ("weights", "tokens", "at_most", "clip_norm", "sharded"),
    [
        ([1.0], False, 7, 0.05, False),
        ([0.7, 3.1], False, 3, None, False),
        ([0.7, 3.1], False, 3, 0.05, True),
        # A rank with one row, whose tokens may all be ignored, beside one with many pieces.
        ([5.0, 0.3, 2.3], True, 3, 0.05, False),
        # More ranks than the last layer has rows of weights.
        ([5.0, 0.3, 2.3, 1.0], True, 3, None, True),
        ([1.2, 0.4, 3.3, 2.2], True, None, None, False),
    ],
)
def test_pieces_clipping_and_ignored_tokens_give_the_training_of_one_process(
    tmp_path: Path,
    weights: list[float],
    tokens: bool,
    at_most: int | None,
    clip_norm: float | None,
    sharded: bool,
) -> None:
    ranks = run_ranks(
        scripts.beside_one_process,
        tokens,
        at_most,
        clip_norm,
        sharded,
        world_size=len(weights),
        directory=tmp_path,
        config=job(weights),
    )
    assert [rank.code for rank in ranks] == [0] * len(weights)
    for rank in ranks:
        assert rank.record["steps"] == 6
        assert max(rank.record["gradients"]) <= 1e-5
        assert max(rank.record["weights"]) <= 1e-5
        for got, expected in rank.record["losses"]:
            assert got == pytest.approx(expected, rel=1e-5)
    pieces = [rank.record["pieces"] for rank in ranks]
    assert (max(pieces) > 6) == (at_most is not None)


def test_noise_is_measured_alike_with_and_without_pieces(tmp_path: Path) -> None:
    measured = []
    for at_most in (None, 4):
        ranks = run_ranks(
            scripts.beside_one_process,
            False,
            at_most,
            None,
            world_size=2,
            directory=tmp_path / str(at_most),
            config=job([3.0, 1.0]),
        )
        measured.append(ranks[0].record["noise"])
    assert measured[0] == pytest.approx(measured[1], rel=1e-3)


def test_pieces_of_a_model_whose_ranks_go_in_step_are_refused(tmp_path: Path) -> None:
    rank = run_ranks(scripts.synchronised, world_size=1, directory=tmp_path, config=job([1.0]))[0]
    assert "at_most does not go with SyncBatchNorm" in rank.record["said"]


def test_rows_left_over_go_round_and_each_sample_still_counts_once(tmp_path: Path) -> None:
    ranks = run_ranks(
        scripts.in_turn, world_size=3, directory=tmp_path, config=job([], strategy="round-robin")
    )
    assert [rank.code for rank in ranks] == [0] * 3
    assert [[len(rows) for rows in rank.record["rows"]] for rank in ranks] == [
        [7, 7, 3, 7, 6, 4],
        [7, 6, 4, 6, 7, 3],
        [6, 7, 3, 7, 7, 3],
    ]
    for rank in ranks:
        told = rank.record["exposed"]
        assert 0 < told["allocator_seconds"] < told["step_seconds"]
        assert told["peak_memory_bytes"] > 1e7
        assert told["straggler"] == 0
    epoch = [row for rank in ranks for rows in rank.record["rows"][:3] for row in rows]
    assert sorted(epoch) == list(range(50))


def test_the_same_weights_make_sharded_gradients_exact_where_plain_averages_are_not(tmp_path: Path) -> None:
    ranks = run_ranks(scripts.sharded, world_size=2, directory=tmp_path, config=job([1.0]))
    assert [rank.code for rank in ranks] == [0, 0]
    for rank in ranks:
        assert rank.record["fsdp"] <= 1e-5
        assert rank.record["ddp"] > 0.05
