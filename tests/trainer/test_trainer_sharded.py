"""Models that are split over the ranks: they grow, shrink, stop and go on as whole ones do."""

from __future__ import annotations

import itertools
import json
import os
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.trainer import scripts
from tests.trainer import scripts_sharded as sharded
from tests.trainer.processes import Ended, Training, run_ranks
from tests.trainer.test_trainer_elastic import SIZE, Trace, end

pytestmark = pytest.mark.processes

EPOCHS = 12


def job(epochs: int = 5, interval: float = 3600) -> dict[str, Any]:
    return {
        "training": {"batchSize": 16, "epochs": epochs, "seed": 7},
        "allocator": {"ranks": {"strategy": "uniform"}},
        "checkpoint": {"intervalSeconds": interval},
    }


def test_ranks_come_and_leave_while_the_training_goes_on(tmp_path: Path) -> None:
    trace, config = Trace(tmp_path), job(EPOCHS)
    with Training(
        scripts.elastic, SIZE, trace.prefix, 0.2, True, True, directory=tmp_path, config=config
    ) as training:
        (first,) = training.start(0, size=1)
        trace.wait_for_group(first.pid, 1, steps=1)
        second, third = training.start(1, 2, size=3)
        trace.wait_for_group(first.pid, 3, steps=1)
        os.kill(third.pid, signal.SIGTERM)
        trace.wait_for_group(first.pid, 2, steps=1)
        trace.hurry()
        assert end([first, second, third]) == [0, 0, 143]
        weights = [training.record(name)["weights"] for name in ("1-0", "2-1")]
    assert trace.trained() == Counter(itertools.product(range(EPOCHS), range(SIZE)))
    sizes = [line["group"][1] for line in trace.lines(first.pid)]
    assert [size for size, _ in itertools.groupby(sizes)] == [1, 3, 2]
    assert weights[0] == weights[1]
    (fixed,) = run_ranks(
        scripts.elastic, SIZE, str(tmp_path / "fixed"), 0.0, True,
        world_size=1, directory=tmp_path / "other", config=config,
    )  # fmt: skip
    # Only the order of sums differs. One sample more or less would move a parameter by a thousandth.
    np.testing.assert_allclose(weights[0], fixed.record["weights"], atol=1e-5)


def test_a_checkpoint_fits_split_and_whole_models_on_any_number_of_ranks(tmp_path: Path) -> None:
    kept = tmp_path / "kept"

    def train(name: str, *args: Any, ranks: int, checkpoints: Path | None = kept) -> list[Ended]:
        return run_ranks(
            sharded.on, str(tmp_path / name), *args,
            world_size=ranks, directory=tmp_path / f"files-{name}", config=job(interval=0.001),
            checkpoints=checkpoints,
        )  # fmt: skip

    killed = train("a", True, sharded.be_killed, 5, 1, ranks=3)
    assert [rank.code for rank in killed] == [75, -9, 75]
    for rank in (killed[0], killed[2]):
        assert rank.message["outcome"] == "peer-lost"
        assert "from its newest checkpoint" in rank.message["error"]["message"]
    whole = train("b", False, sharded.be_asked_to_leave, 9, 0, ranks=2)
    split = train("c", True, sharded.be_asked_to_leave, 13, 0, ranks=2)
    assert [rank.code for rank in whole + split] == [143] * 4
    (last,) = train("d", False, None, 0, 0, ranks=1)
    (fixed,) = train("e", False, None, 0, 0, ranks=1, checkpoints=None)
    np.testing.assert_allclose(last.record["weights"], fixed.record["weights"], atol=1e-5)

    # What the killed run did after its last checkpoint is done again, all else once.
    starts = [ranks[0].record["first"] for ranks in (whole, split, [last])]
    assert 1 < starts[0] <= 6
    done: Counter[tuple[int, int]] = Counter()
    for name, stop in zip("abcd", [*starts, 10**6], strict=True):
        for path in tmp_path.glob(f"{name}-*"):
            steps = [json.loads(line) for line in path.read_text().splitlines()]
            done.update((s["epoch"], row) for s in steps if s["step"] < stop for row in s["rows"])
    assert done == Counter(itertools.product(range(5), range(sharded.SIZE)))

    inferred = run_ranks(
        sharded.infer, world_size=3, directory=tmp_path / "infer", config=job(), checkpoints=kept
    )
    assert [rank.record["batches"] for rank in inferred] == [2, 1, 1]
    correct = sum(rank.record["correct"] for rank in inferred)
    assert correct / sharded.SIZE == pytest.approx(last.message["metrics"]["accuracy"])
    assert [rank.record["weights"] for rank in inferred] == [last.record["weights"]] * 3


def test_waiting_for_a_slow_rank_is_no_computing(tmp_path: Path) -> None:
    quick, slow = run_ranks(sharded.one_is_slow, world_size=2, directory=tmp_path, config=job())
    assert [quick.code, slow.code] == [0, 0]
    # Two blocks, forward and backward.
    assert min(slow.record["seconds"]) >= 0.2
    assert min(quick.record["seconds"]) < 0.1


def test_what_cannot_be_split_is_refused_with_the_reason(tmp_path: Path) -> None:
    (rank,) = run_ranks(sharded.refused, world_size=1, directory=tmp_path, config=job())
    block, parameter, optimizer = rank.record["said"]
    assert "expected blocks of the model" in block
    assert "parameters that are none of the model's" in parameter
    assert "use adamw" in optimizer
