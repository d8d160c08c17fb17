"""A rank that is slow for good is named, and no other."""

from __future__ import annotations

import numpy as np
import pytest

from cra_trainer.account import Account
from cra_trainer.allocation.ranks import RankPlanner
from cra_trainer.allocation.shares import Floats
from cra_trainer.allocation.strategies import make_strategy
from cra_trainer.batching import Batching
from cra_trainer.config import Training
from cra_trainer.state import Position
from cra_trainer.telemetry import Readings

EQUAL = np.full(4, 1e-3)


def train(group: RankPlanner, per_row: Floats, *, seconds: float) -> list[bool]:
    """So many seconds of steps at this cost of a row; returns who is a straggler then."""
    passed = 0.0
    random = np.random.default_rng(0)
    while passed < seconds:
        rows = group.rows(group.batch_size)
        took = rows * per_row * np.exp(0.03 * random.standard_normal(len(rows)))
        group.observe(rows, took, np.full(len(rows), float(group.digest)))
        passed += float(took.max())
    return [bool(one) for one in group.stragglers]


def make_group(strategy: str = "attention") -> RankPlanner:
    return RankPlanner(strategy=make_strategy(strategy), world_size=4, batch_size=400)


def test_a_rank_that_slows_down_for_half_a_minute_is_a_straggler_until_it_recovers() -> None:
    for strategy in ("attention", "uniform"):
        group = make_group(strategy)
        train(group, EQUAL, seconds=20)
        assert train(group, EQUAL * [1, 1, 2, 1], seconds=20) == [False] * 4
        assert train(group, EQUAL * [1, 1, 2, 1], seconds=15) == [False, False, True, False]
        assert train(group, EQUAL, seconds=30) == [False] * 4


def test_work_that_gets_heavier_for_all_makes_no_straggler() -> None:
    group = make_group()
    train(group, EQUAL, seconds=20)
    assert train(group, 3 * EQUAL, seconds=60) == [False] * 4


def test_gpus_of_half_the_speed_are_no_stragglers_but_one_far_behind_its_peers_is() -> None:
    assert train(make_group(), EQUAL * [1, 1, 2, 2], seconds=60) == [False] * 4
    assert train(make_group(), EQUAL * [1, 1, 1, 4], seconds=60) == [False, False, False, True]


def test_a_straggler_stays_one_when_others_come_and_go() -> None:
    group = make_group()
    train(group, EQUAL, seconds=10)
    train(group, EQUAL * [1, 1, 1, 2.5], seconds=40)
    group.resize([0, 3, -1])
    assert group.stragglers.tolist() == [False, True, False]
    assert train(group, np.array([1e-3, 2.5e-3, 1e-3]), seconds=40) == [False, True, False]


def test_the_metrics_and_the_log_of_rank_0_name_the_straggler(caplog: pytest.LogCaptureFixture) -> None:
    group = make_group()
    train(group, EQUAL, seconds=10)
    readings = Readings(rank=2, world_size=4, generation=1)
    account = Account(readings, group, Batching(Training(), world_size=4), epochs=1)
    account.publish(Position())
    assert readings.straggler == 0
    train(group, EQUAL * [1, 1, 3, 1], seconds=40)
    account.publish(Position())
    assert readings.straggler == 1
    leader = Account(
        Readings(rank=0, world_size=4, generation=1), group, Batching(Training(), world_size=4), epochs=1
    )
    with caplog.at_level("INFO", logger="cra_trainer"):
        leader.note_stragglers()
        train(group, EQUAL, seconds=40)
        leader.note_stragglers()
    slow, recovered = (record.message for record in caplog.records)
    assert slow.startswith("rank 2 is slow for good: 33")
    assert recovered == "rank 2 is no longer slow"
