"""Ranks come, leave and die while the training goes on: real processes, and every sample exactly once."""

from __future__ import annotations

import itertools
import json
import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.trainer import scripts
from tests.trainer.processes import Training, run_ranks

pytestmark = pytest.mark.processes

SIZE = 90  # Not a multiple of the batch: each epoch has a smaller last step.
CONFIG = {
    "training": {"epochs": 30, "batchSize": 16},
    "allocator": {"ranks": {"strategy": "uniform"}},
}


class Trace:
    """What the ranks of a training noted of their steps."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.prefix = str(directory / "trace")

    def lines(self, pid: int | None = None) -> list[dict[str, Any]]:
        pattern = "trace-*" if pid is None else f"trace-{pid}"
        texts = (path.read_text() for path in self._directory.glob(pattern))
        return [json.loads(line) for text in texts for line in text.splitlines() if line.endswith("}")]

    def wait_for(self, pid: int, holds: Callable[[list[dict[str, Any]]], bool]) -> None:
        """Until the steps of one process are such."""
        deadline = time.monotonic() + 60
        while not holds(self.lines(pid)):
            assert time.monotonic() < deadline, f"only {len(self.lines(pid))} steps came"
            time.sleep(0.01)

    def wait_for_group(self, pid: int, size: int, steps: int = 3) -> None:
        """Until a process has done some steps in a group of this size."""
        self.wait_for(
            pid,
            lambda lines: len(lines) >= steps and all(line["group"][1] == size for line in lines[-steps:]),
        )

    def hurry(self) -> None:
        """All that was to happen has: the ranks need not take their time any more."""
        (self._directory / "trace.hurry").touch()

    def trained(self) -> Counter[tuple[int, int]]:
        return Counter((line["epoch"], row) for line in self.lines() for row in line["rows"])

    def pauses(self, pid: int) -> list[float]:
        """Seconds from the last step of a group to the first of the next."""
        return [
            after["time"] - before["time"]
            for before, after in itertools.pairwise(self.lines(pid))
            if before["group"] != after["group"]
        ]


@pytest.fixture
def trace(tmp_path: Path) -> Trace:
    return Trace(tmp_path)


def train(trace: Trace, directory: Path, pace: float = 0.01) -> Training:
    return Training(scripts.elastic, SIZE, trace.prefix, pace, directory=directory, config=CONFIG)


def all_once() -> Counter[tuple[int, int]]:
    return Counter(itertools.product(range(30), range(SIZE)))


def end(ranks: list[Any], timeout: float = 60) -> list[int]:
    for rank in ranks:
        rank.join(timeout)
    return [rank.exitcode for rank in ranks]


def test_ranks_that_come_and_leave_lose_and_repeat_no_sample(tmp_path: Path, trace: Trace) -> None:
    with train(trace, tmp_path) as training:
        (first,) = training.start(0, size=1)
        trace.wait_for_group(first.pid, 1)
        second, third = training.start(1, 2, size=3)
        trace.wait_for_group(first.pid, 3)
        os.kill(third.pid, signal.SIGTERM)
        trace.wait_for_group(first.pid, 2)
        (fourth,) = training.start(2, size=3)
        trace.wait_for_group(first.pid, 3)
        assert end([first, second, fourth, third]) == [0, 0, 0, 143]
        assert training.message("2-2")["outcome"] == "left"
        weights = [training.record(name)["weights"] for name in ("1-0", "2-1", "3-2")]
    assert trace.trained() == all_once()
    assert weights[0] == weights[1] == weights[2]
    # All ranks of a step have the same parameters, the same optimizer state and the same learning rate.
    by_weights = {line["weights"]: (line["moments"], line["rate"]) for line in trace.lines(first.pid)}
    for pid in (second.pid, third.pid, fourth.pid):
        for line in trace.lines(pid):
            assert by_weights[line["weights"]] == (line["moments"], line["rate"])


def test_ranks_that_are_sent_away_together_leave_in_one_change(tmp_path: Path, trace: Trace) -> None:
    with train(trace, tmp_path) as training:
        ranks = training.start(0, 1, 2, 3, size=4)
        trace.wait_for_group(ranks[0].pid, 4)
        for rank in ranks[2:]:
            os.kill(rank.pid, signal.SIGTERM)
            time.sleep(0.05)
        assert end(ranks) == [0, 0, 143, 143]
    assert len(trace.pauses(ranks[0].pid)) == 1
    assert trace.trained() == all_once()


def test_a_training_that_was_resized_comes_to_the_parameters_of_one_of_fixed_size(
    tmp_path: Path, trace: Trace
) -> None:
    with Training(
        scripts.elastic, SIZE, trace.prefix, 0.01, True, directory=tmp_path, config=CONFIG
    ) as training:
        (first,) = training.start(0, size=1)
        trace.wait_for_group(first.pid, 1)
        (second,) = training.start(1, size=2)
        trace.wait_for_group(first.pid, 2)
        os.kill(second.pid, signal.SIGTERM)
        assert end([first, second]) == [0, 143]
        resized = training.record("1-0")["weights"]
    (fixed,) = run_ranks(
        scripts.elastic, SIZE, str(tmp_path / "fixed"), 0.0, True,
        world_size=1, directory=tmp_path / "other", config=CONFIG,
    )  # fmt: skip
    # Only the order of sums differs. One sample more or less would move a parameter by a thousandth.
    np.testing.assert_allclose(resized, fixed.record["weights"], atol=1e-5)


@pytest.mark.parametrize("victim", [1, 2])
def test_when_a_rank_is_killed_the_others_go_on_from_memory(
    tmp_path: Path, trace: Trace, victim: int
) -> None:
    with train(trace, tmp_path) as training:
        ranks = training.start(0, 1, 2, size=3)
        trace.wait_for_group(ranks[0].pid, 3)
        os.kill(ranks[victim].pid, signal.SIGKILL)
        trace.wait_for_group(ranks[0].pid, 2)
        (again,) = training.start(victim, size=3)
        trace.wait_for_group(ranks[0].pid, 3)
        rest = [ranks[0], ranks[3 - victim], again]
        assert end(rest) == [0, 0, 0]
        weights = [training.record(name)["weights"] for name in ("1-0", f"1-{3 - victim}", f"2-{victim}")]
    assert weights[0] == weights[1] == weights[2]
    # The victim may have died between its step and its note; the others have each of theirs once.
    trained = trace.trained()
    assert max(trained.values()) == 1
    lost = sum((all_once() - trained).values())
    assert lost <= 16 / 3 + 1
    assert max(trace.pauses(ranks[0].pid)) < 10


def test_when_rank_0_is_killed_the_others_say_that_it_was_lost(tmp_path: Path, trace: Trace) -> None:
    with train(trace, tmp_path) as training:
        ranks = training.start(0, 1, 2, size=3)
        trace.wait_for_group(ranks[1].pid, 3)
        os.kill(ranks[0].pid, signal.SIGKILL)
        assert end(ranks) == [-9, 75, 75]
        assert training.message("1-1")["outcome"] == "peer-lost"
        assert training.message("1-1")["error"]["type"] == "PeerLost"


def test_newcomers_wait_for_all_of_their_cohort_and_go_with_rank_0(tmp_path: Path, trace: Trace) -> None:
    with train(trace, tmp_path) as training:
        (first,) = training.start(0, size=1)
        trace.wait_for_group(first.pid, 1)
        (early,) = training.start(1, size=3, joining=2)
        (killed,) = training.start(2, size=3, joining=2)
        (told,) = training.start(2, size=3, joining=2)
        os.kill(killed.pid, signal.SIGKILL)
        os.kill(told.pid, signal.SIGTERM)
        assert end([first, early, told, killed])[:2] == [0, 75]
        assert {line["group"][1] for line in trace.lines(first.pid)} == {1}
        np.testing.assert_equal(trace.trained(), all_once())


def test_looking_for_links_leaves_no_file_open() -> None:
    from cra_trainer.elastic.group import _is_link, _open_files

    ends = os.pipe()
    before = _open_files()
    assert not any(_is_link(end, frozenset()) for end in ends)
    assert len(_open_files()) == len(before)
    for end in ends:
        os.close(end)
