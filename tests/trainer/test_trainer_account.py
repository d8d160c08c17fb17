"""What a session tells of itself while its group changes."""

from typing import cast

import pytest

from cra_trainer.account import Account
from cra_trainer.allocation.ranks import RankPlanner
from cra_trainer.batching import Batching
from cra_trainer.telemetry import Readings


def test_speed_is_that_of_the_present_group() -> None:
    # Neither the shares nor the batch are read for it.
    readings = Readings(rank=0, world_size=1, generation=1)
    account = Account(readings, cast(RankPlanner, None), cast(Batching, None), epochs=1)
    for number in range(100):
        account.step(rows=64, total=64, seconds=0.1, number=number, factor=1.0)
    assert account.rate.value == pytest.approx(640)
    account.enter(0, 2, 2)
    assert account.rate.value is None
    account.step(rows=32, total=64, seconds=3.0, number=100, factor=1.0)  # everything is made anew
    account.step(rows=32, total=64, seconds=0.05, number=101, factor=1.0)
    assert account.rate.value == pytest.approx(1280)
