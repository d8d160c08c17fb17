"""Row A7: nodes that compete for the same units get them in turn, by priority, and evenly over time."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cra_trainer.allocation.ranks import RankPlanner
from cra_trainer.allocation.strategies import make_strategy
from cra_trainer.allocation.turns import Turns


def test_what_does_not_divide_evenly_goes_round() -> None:
    turns = Turns([1, 1, 1])
    assert [turns.deal(10, after=after).tolist() for after in (0, 10, 20)] == [
        [4, 3, 3],
        [3, 4, 3],
        [3, 3, 4],
    ]


def test_higher_priority_gets_more_turns_spread_over_the_round() -> None:
    turns = Turns([5, 1, 1])
    order = [int(turns.deal(1, after=unit).argmax()) for unit in range(7)]
    assert order == [0, 0, 1, 0, 2, 0, 0]


@settings(max_examples=40)
@given(
    st.lists(st.integers(1, 5), min_size=1, max_size=6),
    st.lists(st.integers(0, 40), min_size=1, max_size=12),
)
def test_nothing_is_lost_and_equals_stay_equal_over_time(priorities: list[int], batches: list[int]) -> None:
    turns, had = Turns(priorities), np.zeros(len(priorities), dtype=np.int64)
    for batch in batches:
        dealt = turns.deal(batch, after=int(had.sum()))
        assert dealt.sum() == batch
        assert (dealt >= 0).all()
        had += dealt
    for one in range(len(priorities)):
        for other in range(len(priorities)):
            if priorities[one] == priorities[other]:
                assert abs(had[one] - had[other]) <= 1


def test_priorities_that_are_no_numbers_of_turns_are_refused() -> None:
    for wrong in ([], [0], [1.5]):
        with pytest.raises(ValueError, match="whole numbers of at least 1"):
            Turns(wrong)


def test_ranks_of_equal_priority_train_equally_many_rows_where_rounding_would_prefer_one() -> None:
    def trained(name: str) -> list[int]:
        group = RankPlanner(strategy=make_strategy(name), world_size=3, batch_size=100)
        return np.sum([group.rows(100, after=100 * step) for step in range(30)], axis=0).tolist()  # type: ignore[no-any-return]

    assert trained("uniform") == [1020, 990, 990]
    assert trained("round-robin") == [1000, 1000, 1000]
