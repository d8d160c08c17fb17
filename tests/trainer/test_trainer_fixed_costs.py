"""What a step costs a rank whatever its rows, seen from plans that gave it unequal numbers of them."""

from __future__ import annotations

import numpy as np
import pytest

from cra_trainer.allocation.fixed_costs import FixedCosts
from cra_trainer.allocation.shares import Floats

FIXED, PER_ROW = np.array([0.01, 0.03]), np.array([1e-3, 2e-3])


def train(costs: FixedCosts, rows: list[float], *, steps: int = 6, factor: Floats | float = 1.0) -> None:
    for _ in range(steps):
        costs.observe(np.array(rows), (FIXED + PER_ROW * rows) * factor)


def test_two_plans_tell_what_does_not_move_with_the_rows() -> None:
    costs = FixedCosts(2)
    train(costs, [50, 50])
    assert costs.seconds.tolist() == [0, 0]
    train(costs, [80, 20])
    assert costs.seconds == pytest.approx(FIXED)


def test_plans_that_hardly_differ_tell_nothing() -> None:
    costs = FixedCosts(2)
    train(costs, [50, 50])
    train(costs, [55, 45])
    assert costs.seconds.tolist() == [0, 0]


def test_a_change_of_speed_is_not_taken_for_one_of_rows() -> None:
    costs = FixedCosts(2)
    train(costs, [50, 50])
    # Rank 0 has become three times slower, and then gets fewer rows.
    costs.forget(np.array([True, False]))
    train(costs, [20, 80], factor=np.array([3.0, 1.0]))
    assert costs.seconds == pytest.approx([0, 0.03])


def test_what_is_known_of_a_rank_goes_with_it_into_the_next_group() -> None:
    costs = FixedCosts(2)
    train(costs, [50, 50])
    train(costs, [80, 20])
    assert costs.resized(np.array([1, -1])).seconds == pytest.approx([0.03, 0])
