"""What ranks ask of each other is done by all after the same step."""

from __future__ import annotations

import numpy as np

from cra_trainer.calls import Calls
from cra_trainer.report import Column, Last, StepReport


def report(*leaving: int, seconds: float = 0.05, newcomers: bool = False) -> StepReport:
    """A step of four ranks, of which these were asked to leave."""
    table = np.zeros((4, len(Column)))
    table[:, Column.SECONDS] = seconds
    table[list(leaving), Column.LEAVING] = 1
    table[0, Column.CHANGE] = newcomers
    rows = np.ones(4, dtype=np.int64)
    return StepReport(
        rows=rows, trained=rows, table=table, before=Last(), compute_seconds=0.0, communication_seconds=0.0
    )


def test_ranks_that_are_sent_away_one_after_the_other_leave_in_one_change() -> None:
    calls = [Calls() for _ in range(4)]
    for told in (report(3), report(3), report(2, 3), report(2, 3)):
        assert not any(one.change for one in calls)
        for rank, one in enumerate(calls):
            one.hear(told, rank)
    assert [one.change for one in calls] == [True] * 4
    assert [one.leave for one in calls] == [False, False, True, True]


def test_who_leaves_a_training_of_long_steps_leaves_after_the_first() -> None:
    calls = Calls()
    calls.hear(report(1, seconds=3.0), 1)
    assert (calls.change, calls.leave) == (True, True)


def test_when_rank_0_goes_all_stop_at_once_and_newcomers_are_taken_in_at_once() -> None:
    calls = Calls()
    calls.hear(report(0), 2)
    assert (calls.stop, calls.change) == (True, False)
    calls = Calls()
    calls.hear(report(newcomers=True), 2)
    assert (calls.stop, calls.change, calls.leave) == (False, True, False)
    calls.hear(report(), 2)
    assert calls.change
