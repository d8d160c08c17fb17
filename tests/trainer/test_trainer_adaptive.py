"""Whole trainings whose batch and learning rate adapt, and on data sets that can only be iterated."""

from __future__ import annotations

import itertools
import os
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.trainer import scripts_batching
from tests.trainer.processes import Training, run_ranks
from tests.trainer.test_trainer_elastic import Trace, end

pytestmark = pytest.mark.processes

SIZE = 150


def job(*, epochs: int, weights: list[float], batch: int = 16, **training: Any) -> dict[str, Any]:
    return {
        "training": {"batchSize": batch, "epochs": epochs, "seed": 7, **training},
        "allocator": {"ranks": {"strategy": "fixed", "weights": weights}},
        "checkpoint": {"intervalSeconds": 3600},
    }


def trained(*ranks: Any) -> Counter[tuple[int, int]]:
    return Counter((epoch, n) for rank in ranks for epoch, rows in rank.record["seen"] for n in rows)


@pytest.mark.parametrize("weights", [[1.0], [3.0, 1.0], [5.0, 1.0, 2.0]])
def test_the_noise_scale_is_that_of_the_samples_own_gradients(tmp_path: Path, weights: list[float]) -> None:
    ranks = run_ranks(
        scripts_batching.standing,
        2000,
        world_size=len(weights),
        directory=tmp_path,
        config=job(epochs=8, weights=weights, batch=64),
    )
    assert [rank.code for rank in ranks] == [0] * len(weights)
    trace, square = ranks[0].record["truth"]
    exposed = ranks[0].record["exposed"]
    assert exposed["noise_scale"] == pytest.approx(trace / square, rel=0.15)
    # A fixed batch and rule: nothing else is touched.
    assert (exposed["batch_size"], exposed["learning_rate_factor"]) == (64, 1)
    assert exposed["step"] == 8 * 32
    # The last batch of an epoch has 16 rows, so it is worth less than a step.
    worth = (trace / 64 + square) / (trace / 16 + square)
    assert exposed["scale_invariant_steps"] == pytest.approx(8 * (31 + worth), rel=0.02)
    assert all("noise_scale" not in rank.record["exposed"] for rank in ranks[1:])


def test_ranks_change_the_batch_together_and_no_sample_is_lost_or_repeated(tmp_path: Path) -> None:
    def train(name: str, stop_at: int | None, world_size: int) -> list[Any]:
        weights = [3.0, 1.0][:world_size]
        return run_ranks(
            scripts_batching.adapting,
            SIZE,
            stop_at,
            world_size=world_size,
            directory=tmp_path / name,
            config=job(
                epochs=40, weights=weights, minBatchSize=8, maxBatchSize=64, learningRateRule="linear"
            ),
            checkpoints=tmp_path / "checkpoints",
        )

    stopped = train("stopped", 70, 2)
    assert [rank.code for rank in stopped] == [143, 143]
    # The batch that the group had come to is the one that a single rank goes on with.
    (resumed,) = train("resumed", None, 1)
    assert resumed.code == 0
    assert trained(*stopped, resumed) == Counter(itertools.product(range(40), range(SIZE)))
    # What its steps were worth, each between one of size 16 and as many as its rows make, counts on.
    before, after = (one.message["progress"]["scaleInvariantSteps"] for one in (stopped[0], resumed))
    worths = [len(rows) / 16 for _, rows in resumed.record["seen"]]
    assert sum(min(1, worth) for worth in worths) < after - before < sum(max(1, worth) for worth in worths)
    first, second = (rank.record for rank in stopped)
    assert first["rates"] == second["rates"]
    sizes = [len(a) + len(b) for (_, a), (_, b) in zip(first["seen"], second["seen"], strict=True)]
    assert len(set(sizes)) > 2
    assert max(sizes) <= 64
    for size, rate in zip(sizes, first["rates"], strict=True):
        # Only the tail of an epoch may be smaller than its rate says.
        assert rate == pytest.approx(0.01 * size / 16) or size < 100 * 16 * rate


@pytest.mark.parametrize("kind", ["plain", "shards"])
def test_what_can_only_be_iterated_is_trained_once_per_epoch_through_a_stop_and_another_size(
    tmp_path: Path, kind: str
) -> None:
    def train(name: str, stop_at: int | None, weights: list[float]) -> list[Any]:
        return run_ranks(
            scripts_batching.iterating,
            kind,
            SIZE,
            stop_at,
            world_size=len(weights),
            directory=tmp_path / name,
            config=job(epochs=3, weights=weights),
            checkpoints=tmp_path / "checkpoints",
        )

    stopped = train("stopped", 14, [3.0, 1.0])
    assert [rank.code for rank in stopped] == [143, 143]
    resumed = train("resumed", None, [1.0, 2.0, 1.0])
    assert [rank.code for rank in resumed] == [0, 0, 0]
    assert trained(*stopped, *resumed) == Counter(itertools.product(range(3), range(SIZE)))
    progress = resumed[0].message["progress"]
    assert (progress["samples"], progress["ratio"]) == (3 * SIZE, 1.0)
    assert sum(rank.record["evaluated"] for rank in resumed) == SIZE
    # No rank decodes what another one trains.
    for rank in stopped:
        assert rank.record["decoded"] <= sum(len(rows) for _, rows in rank.record["seen"]) + SIZE


def test_a_batch_that_adapts_and_shards_survive_ranks_that_come_leave_and_die(tmp_path: Path) -> None:
    trace, epochs = Trace(tmp_path), 40
    config = job(epochs=epochs, weights=[1.0], minBatchSize=8, maxBatchSize=64, learningRateRule="adascale")
    config["allocator"]["ranks"] = {"strategy": "uniform"}
    target = scripts_batching.changing
    with Training(target, SIZE, trace.prefix, directory=tmp_path, config=config) as training:
        (first,) = training.start(0, size=1)
        trace.wait_for_group(first.pid, 1)
        second, third = training.start(1, 2, size=3)
        trace.wait_for_group(first.pid, 3, steps=30)
        os.kill(third.pid, signal.SIGKILL)
        trace.wait_for_group(first.pid, 2)
        os.kill(second.pid, signal.SIGTERM)
        trace.wait_for_group(first.pid, 1)
        (fourth,) = training.start(1, size=2)
        trace.wait_for_group(first.pid, 2)
        assert end([first, fourth, second]) == [0, 0, 143]
        ranks = [training.record(name) for name in ("1-0", "3-1")]
    assert ranks[0] == ranks[1]
    trained = trace.trained()
    assert max(trained.values()) == 1
    # Nobody knows what the killed rank did in its last step.
    lost = Counter(itertools.product(range(epochs), range(SIZE))) - trained
    assert sum(lost.values()) <= 64 / 3 + 1
    # In each step all ranks have the same parameters and take the same rate.
    rates = {line["weights"]: line["rate"] for line in trace.lines(first.pid)}
    assert len(set(rates.values())) > 1
    for pid in (second.pid, fourth.pid):
        assert all(rates[line["weights"]] == line["rate"] for line in trace.lines(pid))
