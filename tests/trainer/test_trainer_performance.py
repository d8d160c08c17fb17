"""Row A4: errors, performance, the grades that follow, and what these change in an allocation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cra_trainer.allocation.performance import BOUND, adjust, errors, grade, performance
from cra_trainer.allocation.shares import softmax

ERROR = st.integers(0, 1000).map(lambda thousandths: thousandths / 1000)
ERRORS = st.lists(ERROR, min_size=2, max_size=8)


def test_performance_relates_what_is_right_to_the_largest_error() -> None:
    distances = errors([0.9, 0.6, 0.5], 1.0)
    assert distances == pytest.approx([0.1, 0.4, 0.5])
    assert performance(distances) == pytest.approx([1.8, 1.2, 1.0])


def test_the_error_of_a_vector_is_its_distance() -> None:
    assert errors([[3.0, 4.0], [0.0, 0.0]], [0.0, 0.0]) == pytest.approx([5.0, 0.0])


def test_nodes_without_error_all_perform_fully() -> None:
    assert performance([0.0, 0.0]).tolist() == [1.0, 1.0]


def test_grades_meet_at_their_thresholds() -> None:
    assert [grade(p) for p in (0.9, 0.89, 0.5, 0.49)] == ["good", "fair", "fair", "poor"]
    assert grade(0.7, good=0.7) == "good"
    assert grade(0.7, poor=0.8) == "poor"


def shares_after(validations: list[list[float]], **thresholds: float) -> list[list[float]]:
    """The shares of nodes, equal at first, after each of several validations that found these errors."""
    attention, found = np.zeros(len(validations[0])), []
    for distances in validations:
        attention = adjust(attention, performance(distances), **thresholds)
        found.append(softmax(attention).tolist())
    return found


def test_a_poor_node_gains_until_it_is_good_and_then_gives_back() -> None:
    bad, mended = [0.05, 0.8], [0.05, 0.1]
    gaining = [one[1] for one in shares_after([bad] * 20)]
    assert gaining == sorted(gaining)
    assert 0.5 < gaining[0] < gaining[-1] < 0.8
    returning = [one[1] for one in shares_after([bad] * 20 + [mended] * 20)][19:]
    assert returning == sorted(returning, reverse=True)
    assert returning[-1] == pytest.approx(0.5, abs=1e-3)


def test_good_nodes_are_left_alone() -> None:
    assert shares_after([[0.0, 0.3, 0.52]] * 5)[-1] == pytest.approx([1 / 3] * 3)
    moved = adjust([0.0, 0.0, 0.0], performance([0.05, 0.1, 0.8]))
    assert moved[:2].tolist() == [0, 0]
    assert moved[2] > 0


def test_between_the_thresholds_a_node_gains_less_than_below_both() -> None:
    fair, poor = (adjust([0.0, 0.0], performance([0.0, worst]))[1] for worst in (0.6, 0.8))
    assert 0 < fair < poor


def test_who_raises_the_thresholds_has_smaller_errors_adjusted() -> None:
    mild = [[0.02, 0.3]]
    assert shares_after(mild)[0] == pytest.approx([0.5, 0.5])
    assert shares_after(mild, good=3.0, poor=2.0)[0][1] > 0.5


@given(validations=st.lists(ERRORS, min_size=1, max_size=30).filter(lambda of: len({*map(len, of)}) == 1))
def test_shares_stay_within_their_bounds_whatever_a_validation_finds(validations: list[list[float]]) -> None:
    for shares in shares_after(validations):
        assert sum(shares) == pytest.approx(1)
        assert max(shares) <= min(shares) * math.exp(BOUND) * (1 + 1e-9)


@given(ERROR, st.integers(2, 8))
def test_nodes_that_do_alike_keep_equal_shares(error: float, n: int) -> None:
    assert shares_after([[error] * n] * 3)[-1] == pytest.approx([1 / n] * n)
