"""Weights, shares and whole units: rows A2 and A3 with their worked examples, and what must hold for any
numbers.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cra_trainer.allocation.shares import allocation, apportion, fill, shares, softmax

positive = st.floats(min_value=1e-3, max_value=1e3)


def test_weights_are_the_softmax_of_the_scores() -> None:
    weights = softmax([0.0, np.log(2), np.log(5)])
    assert weights == pytest.approx([1 / 8, 2 / 8, 5 / 8])
    assert softmax([1000.0, 1000.0]) == pytest.approx([0.5, 0.5])


def test_the_source_form_with_its_worked_examples() -> None:
    assert allocation([0.1], [1.0], 100)[0] == pytest.approx(0.001)
    weights = softmax(np.zeros(100))
    assert weights == pytest.approx(np.full(100, 0.01))
    assert allocation(weights, np.ones(100), 100) == pytest.approx(np.full(100, 0.0001))


def test_the_source_form_normalised_is_the_share() -> None:
    scores, capability = [0.3, -0.2, 0.0], [100.0, 50.0, 400.0]
    p = allocation(softmax(scores), capability, 100)
    assert shares(scores, capability) == pytest.approx(p / p.sum())


def test_without_scores_the_split_is_in_proportion_to_capability() -> None:
    assert shares([0, 0, 0], [1, 2, 5]) == pytest.approx([1 / 8, 2 / 8, 5 / 8])


def test_a_bound_passes_on_what_it_cuts_off_in_proportion() -> None:
    assert shares([0, 0, 0], [6, 3, 1], hi=0.5) == pytest.approx([0.5, 0.375, 0.125])
    assert shares([0, 0, 0], [6, 3, 1], lo=0.2) == pytest.approx([0.8 * 2 / 3, 0.8 / 3, 0.2])


@pytest.mark.parametrize("capability", [[1.0, 0.0], [1.0, float("nan")], [float("inf"), 1.0]])
def test_a_capability_that_is_no_speed_is_refused(capability: list[float]) -> None:
    with pytest.raises(ValueError, match="capability"):
        shares([0, 0], capability)


@st.composite
def splits(draw: st.DrawFn) -> tuple[list[float], int, list[int], list[int]]:
    p = draw(st.lists(st.floats(min_value=0, max_value=1e3), min_size=1, max_size=12).filter(any))
    bounds = [sorted(draw(st.tuples(st.integers(0, 50), st.integers(0, 50)))) for _ in p]
    lo, hi = [b[0] for b in bounds], [b[1] for b in bounds]
    return p, draw(st.integers(sum(lo), sum(hi))), lo, hi


@given(splits())
def test_units_sum_to_the_total_inside_the_bounds(
    split: tuple[list[float], int, list[int], list[int]],
) -> None:
    p, total, lo, hi = split
    units = apportion(p, total, lo, hi)
    assert units.sum() == total
    assert (units >= lo).all()
    assert (units <= hi).all()


@given(splits())
def test_units_are_the_exact_split_rounded_up_or_down(
    split: tuple[list[float], int, list[int], list[int]],
) -> None:
    p, total, lo, hi = split
    exact = fill(p, total, lo, hi)
    assert exact.sum() == pytest.approx(total)
    assert (np.abs(apportion(p, total, lo, hi) - exact) < 1 + 1e-6).all()


@given(st.lists(positive, min_size=1, max_size=12), st.integers(0, 500))
def test_units_move_with_their_nodes(p: list[float], total: int) -> None:
    order = np.random.default_rng(total).permutation(len(p))
    units, moved = apportion(p, total), apportion(np.asarray(p)[order], total)
    # Nodes whose remainders tie may differ by the one unit that there is to give.
    assert (np.abs(units[order] - moved) <= 1).all()
    remainders = np.round(fill(p, total, 0, total) % 1, 8)
    if len(set(remainders)) == len(p):
        assert (units[order] == moved).all()


@given(st.lists(positive, min_size=2, max_size=8), st.integers(1, 500))
def test_more_weight_never_means_fewer_units(p: list[float], total: int) -> None:
    units = apportion(p, total)
    order = np.argsort(p, kind="stable")
    assert (np.diff(units[order]) >= -1).all()


def test_the_largest_remainders_get_what_rounding_leaves() -> None:
    assert apportion([5, 3, 2], 7).tolist() == [4, 2, 1]
    assert apportion([1, 1, 1], 10).tolist() == [4, 3, 3]


def test_bounds_that_leave_no_split_are_refused() -> None:
    with pytest.raises(ValueError, match="no split of 3"):
        apportion([1, 1], 3, lo=2)
    with pytest.raises(ValueError, match="no split of 5"):
        apportion([1, 1], 5, hi=2)
