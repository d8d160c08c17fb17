"""Who goes first of those that wait, and who must not start yet."""

from datetime import timedelta
from typing import Any

import pytest

from cra_operator.api import Job, JobStatus
from cra_operator.controller.facts import Facts
from cra_operator.controller.sharing import Accounts, Queue, Quota, Rules, accounts, line_up
from tests.controller.deciding_world import NOW, a_job, waiting
from tests.operator.operator_world import make_job

HOUR = 3600.0


def line(jobs: list[Facts], rules: Rules | None = None, *, capacity: int = 8, **recent: float) -> list[str]:
    turns = line_up(jobs, rules or Rules(), Accounts(recent=recent), capacity=capacity)
    return [turn.facts.key[1] if turn.admitted else f"({turn.facts.key[1]})" for turn in turns]


def test_priority_goes_first_then_age() -> None:
    jobs = [waiting("young", age=1.0), waiting("old", age=9.0), waiting("urgent", age=0.0, priority=5)]
    assert line(jobs) == ["urgent", "old", "young"]


def test_a_smaller_job_passes_one_that_does_not_fit() -> None:
    assert line([waiting("big", 9), waiting("small", 1, age=9.0)]) == ["(big)", "small"]


def test_jobs_that_run_keep_their_minimum_whoever_waits() -> None:
    jobs = [a_job("runs", 8, lowest=6), waiting("urgent", 3, priority=9), waiting("small", 2)]
    assert line(jobs) == ["(urgent)", "small"]


def test_among_equals_goes_first_whose_queue_used_less_for_its_weight() -> None:
    jobs = [waiting("a", queue="busy", age=9.0), waiting("b", queue="idle")]
    assert line(jobs, busy=100.0) == ["b", "a"]
    assert line(jobs, Rules(queues={"busy": Queue(weight=100.0)}), busy=100.0, idle=2.0) == ["a", "b"]


def test_queues_without_a_history_take_turns() -> None:
    jobs = [waiting(f"{q}{i}", queue=q, age=10.0 - i - (q == "y") * 5) for q in "xy" for i in range(3)]
    assert line(jobs) == ["x0", "y0", "x1", "y1", "x2", "y2"]


def test_a_namespace_within_its_quota_goes_before_one_that_borrows() -> None:
    rules = Rules(quotas={"mine": Quota(gpus=4), "theirs": Quota(gpus=0)})
    jobs = [waiting("lent", 2, namespace="theirs", age=9.0), waiting("own", 2, namespace="mine", highest=2)]
    assert line(jobs, rules, capacity=4) == ["own", "lent"]


def test_a_full_namespace_waits_and_says_so() -> None:
    rules = Rules(quotas={"team": Quota(gpus=2, borrow=False)})
    jobs = [a_job("runs", 2, lowest=2, namespace="team"), waiting("more", namespace="team")]
    (turn,) = line_up(jobs, rules, Accounts(), capacity=8)
    assert not turn.admitted
    assert turn.message == "namespace team may hold 2 GPUs now, and 2 are taken"


def test_a_thousand_waiting_jobs_are_in_line_in_a_moment() -> None:
    jobs = [waiting(f"j{i}", queue=f"q{i % 7}", age=float(i)) for i in range(1000)]
    assert len(set(line(jobs, capacity=2000))) == 1000


def ran(gpu_seconds: float, *, began: float, ended: float | None = None, **spec: Any) -> Job:
    """A job that used so much from so many seconds ago on."""
    status = JobStatus(
        gpu_seconds=gpu_seconds,
        start_time=NOW - timedelta(seconds=began),
        completion_time=None if ended is None else NOW - timedelta(seconds=ended),
    )
    return make_job(**spec).model_copy(update={"status": status})


def test_what_was_used_long_ago_counts_less() -> None:
    one, both = ran(100.0, began=HOUR, ended=HOUR - 1), ran(100.0, began=1.0)
    used = accounts([one], half_life=HOUR, now=NOW)
    assert used.recent["default"] == pytest.approx(50.0, rel=1e-3)
    assert used.spent["default"] == 100.0
    used = accounts([one, both], half_life=HOUR, now=NOW)
    assert used.recent["default"] == pytest.approx(150.0, rel=1e-3)


def test_gpu_hours_are_charged_to_the_queue_else_to_the_namespace() -> None:
    jobs = [ran(10.0, began=1.0, queue="team"), ran(5.0, began=1.0)]
    assert accounts(jobs, half_life=HOUR, now=NOW).spent == {"team": 10.0, "default": 5.0}
