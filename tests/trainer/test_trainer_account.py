"""What a session tells of itself while its group changes."""

from typing import cast

import numpy as np
import pytest

from cra_trainer.account import Account
from cra_trainer.allocation.ranks import RankPlanner
from cra_trainer.allocation.strategies import make_strategy
from cra_trainer.batching import Batching
from cra_trainer.telemetry import Readings


def an_account(readings: Readings) -> Account:
    planner = RankPlanner(strategy=make_strategy("uniform"), world_size=1, batch_size=64)
    return Account(readings, planner, cast(Batching, None), epochs=1)  # the batch is not read here


def test_speed_is_that_of_the_present_group() -> None:
    readings = Readings(rank=0, world_size=1, generation=1)
    account = an_account(readings)
    for number in range(100):
        account.step(rows=64, total=64, seconds=0.1, number=number, factor=1.0)
    assert account.rate.value == pytest.approx(640)
    account.enter(0, 2, 2)
    assert account.rate.value is None
    account.step(rows=32, total=64, seconds=3.0, number=100, factor=1.0)  # everything is made anew
    account.step(rows=32, total=64, seconds=0.05, number=101, factor=1.0)
    assert account.rate.value == pytest.approx(1280)


def test_speed_forgets_the_steps_before_the_shares_settled() -> None:
    readings = Readings(rank=0, world_size=2, generation=1)
    planner = RankPlanner(strategy=make_strategy("attention"), world_size=2, batch_size=64)
    account = Account(readings, planner, cast(Batching, None), epochs=1)
    for number in range(10):
        rows, settled = planner.rows(64), planner.settled
        seconds = rows * np.array([1.0, 3.0]) / 64
        account.step(rows=int(rows[0]), total=64, seconds=seconds.max(), number=number, factor=1.0)
        assert readings.settled == settled
        planner.observe(rows, seconds, np.full(2, float(planner.digest)))
    assert account.rate.value == pytest.approx(64 / 0.75, rel=0.02)


@pytest.mark.parametrize("first", [2.0, 3.5])
def test_a_long_step_is_no_pause_of_training_but_what_its_first_one_takes_longer_is(
    monkeypatch: pytest.MonkeyPatch, first: float
) -> None:
    readings = Readings(rank=0, world_size=2, generation=1)
    account = an_account(readings)
    now = 100.0
    monkeypatch.setattr("time.perf_counter", lambda: now)
    account.step(rows=32, total=64, seconds=2.0, number=1, factor=1.0)
    account.enter(0, 4, 2)
    now += 0.25 + first
    account.step(rows=16, total=64, seconds=first, number=2, factor=1.0)
    assert readings.pause_seconds == pytest.approx(0.25 + first - 2.0)
