"""Thinning: fewer rows, the same gradient on average."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from cra_trainer.allocation.samples import Thinning
from tests.trainer import scripts_allocation
from tests.trainer.processes import run_ranks

NUMBERS = torch.arange(8)
LOSSES = torch.tensor([0.1, 0.2, 0.3, 0.4, 2.0, 2.0, 2.0, 3.0])


def taught(keep: float = 0.5) -> Thinning:
    """A thinning that has seen all samples once."""
    thinning = Thinning(8, keep=keep)
    rows, weights = thinning.choose(NUMBERS, progress=0)
    assert rows.tolist() == NUMBERS.tolist()
    assert torch.equal(thinning.spread(LOSSES, NUMBERS, rows, weights), LOSSES)
    return thinning


def test_samples_with_a_small_loss_are_kept_now_and_then_and_all_of_them_in_the_end() -> None:
    thinning = taught(keep=0.25)
    assert thinning.probabilities(NUMBERS, progress=0.5).tolist() == [0.25] * 4 + [1.0] * 4
    assert thinning.probabilities(NUMBERS, progress=0.9).tolist() == [1.0] * 8


def test_the_weighted_sum_is_right_on_average() -> None:
    torch.manual_seed(0)
    thinning, sums, kept = taught(), [], 0
    for _ in range(2000):
        rows, weights = thinning.choose(NUMBERS, progress=0.5)
        kept += len(rows)
        sums.append(thinning.spread(LOSSES[rows], NUMBERS, rows, weights))
    mean = torch.stack(sums).mean(0)
    # Four standard errors of a row that is there with probability 1/2 and counts twice.
    assert torch.allclose(mean, LOSSES, atol=4 * 0.4 / 2000**0.5)
    assert kept / 2000 == pytest.approx(6, abs=0.1)


def test_a_batch_of_which_nothing_is_chosen_has_a_row_that_counts_nothing() -> None:
    torch.manual_seed(0)
    thinning = taught(keep=1e-9)
    rows, weights = thinning.choose(NUMBERS[:4], progress=0.5)
    assert rows.tolist() == [0]
    assert weights.tolist() == [0]
    assert thinning.spread(torch.ones(1), NUMBERS[:4], rows, weights).tolist() == [0] * 4


def test_a_probability_that_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="keep: expected above 0 and at most 1, got 0"):
        Thinning(8, keep=0)


@pytest.mark.processes
def test_ranks_train_fewer_rows_through_the_session(tmp_path: Path) -> None:
    config = {
        "training": {"epochs": 4, "batchSize": 16},
        "allocator": {"ranks": {"strategy": "fixed", "weights": [1, 3]}},
    }
    ranks = run_ranks(scripts_allocation.thin, world_size=2, directory=tmp_path, config=config)
    assert [rank.code for rank in ranks] == [0, 0]
    computed = sum(rank.record["computed"] for rank in ranks)
    assert ranks[0].message["progress"]["samples"] == 4 * 64
    assert 64 < computed < 4 * 64
    assert ranks[0].record["weights"] == ranks[1].record["weights"]
