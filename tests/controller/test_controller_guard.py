"""The guard lets a change pass only where it is worth its trouble, and says why not where it is not."""

from typing import Any

import pytest

from cra_operator.controller.facts import Facts
from cra_operator.controller.guard import Prospect, Ruling, may_grow, may_shrink, shrinks_for_itself
from tests.controller.deciding_world import a_job

HOUR = 3600.0


def grow(job: Facts, *, rate: float = 1.0, then: float = 2.0, remaining: float = HOUR) -> Ruling:
    return may_grow(job, Prospect(gpus=4, rate=rate, rate_then=then, remaining=remaining), 0.05)


def test_growth_that_pays_is_allowed_and_says_what_it_brings() -> None:
    ruling = grow(a_job("a", 2))
    assert ruling.allowed
    assert ruling.message == "100% faster, 29m sooner done"


def test_a_job_without_an_end_grows_for_its_speed_alone() -> None:
    ruling = grow(a_job("a", 2), remaining=float("nan"))
    assert ruling.allowed
    assert ruling.message == "100% faster"


@pytest.mark.parametrize(
    ("job", "prospect", "reason", "words"),
    [
        ({"changes": True}, {}, "Changing", "another change"),
        ({"measured": False}, {}, "MetricsMissing", "metrics are missing"),
        ({"moved": 59.0}, {}, "CoolingDown", "less than 60s ago"),
        ({"moved": 239.0, "turns": 1}, {}, "CoolingDown", "less than 4m ago"),
        ({"moved": 70.0, "taken_back": 3}, {}, "TakenBack", "less than 2m ago"),
        ({}, {"then": 1.04}, "GainTooSmall", "4% faster"),
        ({}, {"then": 0.9}, "GainTooSmall", "10% slower"),
        ({}, {"rate": 0.0}, "NotMeasured", "not measured yet"),
        ({"known": False}, {}, "NotMeasured", "its speed on 2 GPUs is not measured yet"),
        ({}, {"remaining": 10.0}, "AboutToEnd", "ends in 10s"),
        ({}, {"remaining": 13.0}, "DoesNotPay", "11s of change"),
        ({}, {"remaining": 25.0}, "DoesNotPay", "trained for the 10s of their start"),
        ({"pause": 300.0}, {"remaining": 500.0}, "DoesNotPay", "until it ends"),
        ({"elastic": False, "startup": 200.0}, {"remaining": 400.0}, "DoesNotPay", "until it ends"),
    ],
)
def test_what_does_not_pay_is_refused_with_its_reason(
    job: dict[str, Any], prospect: dict[str, float], reason: str, words: str
) -> None:
    ruling = grow(a_job("a", 2, **job), **prospect)
    assert (ruling.allowed, ruling.reason) == (False, reason)
    assert words in ruling.message


def test_waiting_pays_where_a_change_did_not() -> None:
    assert grow(a_job("a", 2, moved=61.0)).allowed
    assert grow(a_job("a", 2, moved=121.0, taken_back=3)).allowed


def test_a_job_that_goes_back_and_forth_waits_longer_each_time() -> None:
    assert grow(a_job("a", 2, moved=241.0, turns=1)).allowed
    assert not grow(a_job("a", 2, moved=959.0, turns=2)).allowed
    assert grow(a_job("a", 2, moved=1801.0, turns=9)).allowed


def test_a_job_gives_gpus_up_for_its_own_sake_only_beyond_doubt() -> None:
    def sure(then: float, **job: Any) -> bool:
        prospect = Prospect(gpus=1, rate=1.0, rate_then=then, remaining=HOUR)
        return shrinks_for_itself(a_job("a", 2, **job), prospect, 0.05)

    assert sure(1.16)
    assert not sure(1.14)
    assert not sure(1.16, known=False)
    assert not sure(1.16, moved=1.0)


def test_after_many_setbacks_it_is_tried_every_half_hour() -> None:
    assert not grow(a_job("a", 2, moved=1799.0, taken_back=40)).allowed
    assert grow(a_job("a", 2, moved=1801.0, taken_back=40)).allowed


def test_a_script_that_restarts_must_gain_more_than_one_that_goes_on() -> None:
    live = grow(a_job("a", 2, startup=100.0), remaining=310.0, then=1.5)
    restarts = grow(a_job("a", 2, startup=100.0, elastic=False), remaining=310.0, then=1.5)
    assert live.allowed
    assert not restarts.allowed


def test_a_job_that_was_just_changed_is_asked_for_nothing() -> None:
    refused = may_shrink(a_job("a", 4, moved=5.0))
    assert refused is not None
    assert refused.reason == "CoolingDown"
    assert may_shrink(a_job("a", 4, moved=65.0)) is None
