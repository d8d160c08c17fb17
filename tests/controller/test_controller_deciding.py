"""What one tick decides: who grows, who gives way and for whom, who waits; with the reason in words."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cra_operator.controller.facts import Facts
from cra_operator.controller.policy import ClusterObservation, Decision
from cra_operator.controller.sharing import Accounts, Queue, Quota, Rules
from tests.controller.deciding_world import (
    NOW,
    a_job,
    after,
    answers,
    equal_shares,
    sizes,
    target,
    tick,
    waiting,
)

# --- growing and giving way ---------------------------------------------------------------------------------


def test_a_job_grows_into_idle_gpus() -> None:
    outcome = tick([a_job("a", 2)], 8)
    assert sizes(outcome) == {"a": 8}
    grown = target(outcome, "a")
    assert (grown.reason, grown.policy, grown.gain, grown.weight) == ("GrowthPays", "goodput", 3.0, 1.0)
    assert grown.message == "goodput: 300% faster, 62m sooner done"


def test_a_job_gives_way_to_a_more_important_one_that_waits_even_right_after_a_change() -> None:
    jobs = [a_job("low", 8, moved=1.0), waiting("urgent", 2, priority=1000)]
    outcome = tick(jobs, 8)
    assert sizes(outcome)["low"] == 6
    low = target(outcome, "low")
    assert low.reason == "GivesWay"
    assert "default/urgent (priority 1000) waits for 2 GPUs" in low.message


def test_an_equal_waits_until_the_cool_down_is_over() -> None:
    jobs = [a_job("first", 8, moved=1.0), waiting("second", 2)]
    assert sizes(tick(jobs, 8))["first"] == 8
    jobs[0] = replace(jobs[0], moved=61.0)
    assert sizes(tick(jobs, 8))["first"] == 6


def test_nobody_is_shrunk_for_a_growth_that_does_not_pay() -> None:
    jobs = [a_job("big", 6), a_job("small", 2, eta=5.0)]
    outcome = tick(jobs, 8, answers(4, 4), remaining=5.0)
    assert sizes(outcome) == {"big": 6, "small": 2}
    assert target(outcome, "big").reason == "NotNeeded"
    assert target(outcome, "small").reason == "AboutToEnd"


def test_nobody_is_shrunk_by_more_than_is_needed() -> None:
    jobs = [a_job("big", 6), a_job("small", 1)]
    outcome = tick(jobs, 8, answers(2, 4))
    assert sizes(outcome) == {"big": 4, "small": 4}
    assert "gain more" in target(outcome, "big").message


def test_those_who_lose_least_give_way_first() -> None:
    restarts = a_job("restarts", 4, elastic=False, unsaved=300.0)
    outcome = tick([restarts, a_job("live", 4), waiting("new", 2)], 8, answers(3, 3, 2))
    assert sizes(outcome) == {"restarts": 3, "live": 3, "new": 2}
    outcome = tick([restarts, a_job("live", 4), waiting("new", 1)], 8, answers(3, 3, 2))
    assert sizes(outcome) == {"restarts": 4, "live": 3, "new": 2}


def test_growth_waits_while_nobody_can_give_way() -> None:
    jobs = [a_job("big", 6, moved=1.0), a_job("small", 2)]
    outcome = tick(jobs, 8, answers(4, 4))
    assert sizes(outcome) == {"big": 6, "small": 2}
    assert target(outcome, "small").reason == "NoRoom"


def test_a_job_that_is_faster_on_fewer_gpus_shrinks_for_itself() -> None:
    outcome = tick([a_job("a", 8)], 8, answers(2), power=-0.5)
    assert sizes(outcome) == {"a": 2}
    assert target(outcome, "a").reason == "FasterSmaller"


def test_a_job_in_the_middle_of_a_change_keeps_its_goal() -> None:
    outcome = tick([a_job("a", 4, changes=True, measured=False)], 8)
    assert sizes(outcome) == {"a": 4}


def test_jobs_without_metrics_stay_as_they_are_and_say_so() -> None:
    outcome = tick([a_job("blind", 2, measured=False), a_job("seen", 2)], 8, answers(6))
    assert sizes(outcome) == {"blind": 2, "seen": 6}
    assert target(outcome, "blind").reason == "MetricsMissing"


def test_a_pinned_job_is_left_to_its_owner_and_its_gpus_are_not_given_away() -> None:
    outcome = tick([a_job("pinned", 6, decides=False), a_job("free", 1)], 8)
    assert sizes(outcome) == {"pinned": None, "free": 2}


def test_a_recommendation_names_the_size_and_takes_nobodys_gpus() -> None:
    jobs = [a_job("told", 2, acts=False), a_job("acts", 2)]
    outcome = tick(jobs, 8)
    assert (target(outcome, "told").gpus, target(outcome, "told").recommended) == (None, 4)
    assert target(outcome, "told").reason == "GrowthPays"
    assert sizes(outcome)["acts"] == 4
    assert target(outcome, "acts").message.endswith(" (attention 0.50)")


# --- policies that fail -------------------------------------------------------------------------------------


def broken(name: str, priority: int, seen: ClusterObservation) -> Decision:
    if name == "attention":
        raise FloatingPointError("a weight is not a number")
    return equal_shares(name, priority, seen)


def test_a_rule_decides_where_a_learned_policy_fails() -> None:
    outcome = tick([a_job("a", 2, policy="attention")], 8, broken)
    assert sizes(outcome) == {"a": 8}
    assert outcome.troubles == {"attention": "a weight is not a number"}
    assert target(outcome, "a").policy == "goodput"
    assert target(outcome, "a").message.startswith("goodput (instead of attention): ")


@pytest.mark.parametrize(
    ("choice", "trouble"),
    [
        ([99, 0], "a size that does not exist"),
        ([8, 8], "gave away 16 of 8 GPUs"),
        ([1], "decided about"),
        ([-1, 0], "a size that does not exist"),
        ([0.5, 0.5], "a size that does not exist"),
    ],
)
def test_an_answer_that_cannot_be_acted_on_changes_nothing(choice: list[float], trouble: str) -> None:
    def senseless(name: str, priority: int, seen: ClusterObservation) -> Decision:
        return Decision(choice=np.array(choice))

    outcome = tick([a_job("a", 2), a_job("b", 3)], 8, senseless)
    assert sizes(outcome) == {"a": 2, "b": 3}
    assert trouble in outcome.troubles["goodput"]


def test_each_policy_decides_about_its_own_jobs_and_part() -> None:
    asked: dict[str, tuple[int, int]] = {}

    def note(name: str, priority: int, seen: ClusterObservation) -> Decision:
        asked[name] = len(seen), int(seen.capacity[0])
        return equal_shares(name, priority, seen)

    jobs = [a_job("a", 1, policy="ppo"), a_job("b", 1, policy="sarsa"), a_job("c", 1, policy="sarsa")]
    outcome = tick(jobs, 9, note)
    assert asked == {"ppo": (1, 3), "sarsa": (2, 6)}
    assert sizes(outcome) == {"a": 3, "b": 3, "c": 3}


# --- priority, quotas, budgets ------------------------------------------------------------------------------


def test_the_more_important_job_has_the_first_word() -> None:
    jobs = [a_job("low", 4), a_job("high", 4, priority=10)]
    assert sizes(tick(jobs, 8, remaining=1e5)) == {"low": 1, "high": 7}


def test_a_namespace_holds_no_more_than_its_quota_without_borrowing() -> None:
    rules = Rules(quotas={"team": Quota(gpus=3, borrow=False)})
    assert sizes(tick([a_job("a", 1, namespace="team")], 8, rules=rules)) == {"a": 3}


def test_a_resource_quota_counts_as_well() -> None:
    assert sizes(tick([a_job("a", 1)], 8, rules=Rules(limits={"default": 4}))) == {"a": 4}


def test_a_namespace_borrows_what_the_others_leave() -> None:
    rules = Rules(quotas={"mine": Quota(gpus=2), "theirs": Quota(gpus=6)})
    mine = a_job("mine", 1, namespace="mine")
    assert sizes(tick([mine], 8, rules=rules)) == {"mine": 8}
    theirs = a_job("theirs", 1, namespace="theirs", highest=4)
    assert sizes(tick([mine, theirs], 8, lambda *_: Decision(choice=np.array([7, 1])), rules=rules)) == {
        "mine": 4,
        "theirs": 1,
    }


def test_a_job_of_a_queue_without_budget_does_not_grow_nor_start() -> None:
    rules = Rules(queues={"default": Queue(gpu_hours=1.0)})
    used = Accounts(spent={"default": 3600.0})
    outcome = tick([a_job("a", 2), waiting("b")], 8, rules=rules, used=used)
    assert sizes(outcome) == {"a": 2, "b": None}
    assert target(outcome, "b").message == "the 1 GPU-hours of queue default are used up"
    assert outcome.standing.closed == {"default": "the 1 GPU-hours of queue default are used up"}


# --- those that wait ----------------------------------------------------------------------------------------


def test_a_waiting_job_is_told_when_it_may_expect_to_start() -> None:
    jobs = [a_job("a", 8, decides=False, eta=95.0), waiting("b", 4), waiting("c", 6)]
    outcome = tick(jobs, 8)
    start = target(outcome, "b").start
    assert start is not None
    assert (start - NOW).total_seconds() == 100
    assert target(outcome, "c").start is None, "b's end is not known"


def test_free_gpus_that_a_waiting_job_cannot_use_are_none() -> None:
    """Four GPUs are free, but on two nodes, and it wants four together."""
    jobs = [a_job("low", 4), waiting("urgent", 4, each=4, highest=4, priority=9, fits=0)]
    assert sizes(tick(jobs, 8))["low"] == 1
    jobs[1] = replace(jobs[1], fits=4)
    assert sizes(tick(jobs, 8))["low"] == 4


def test_a_job_grows_into_what_those_who_start_leave() -> None:
    assert sizes(tick([a_job("a", 2), waiting("b", 2)], 8)) == {"a": 4, "b": 4}


def test_nobody_makes_room_for_a_job_that_can_run_nowhere() -> None:
    jobs = [a_job("low", 8), waiting("elsewhere", 2, lowest=9, highest=8, priority=9)]
    assert sizes(tick(jobs, 16)) == {"low": 8, "elsewhere": None}


def test_a_job_that_starts_gets_what_its_policy_gives_it() -> None:
    assert sizes(tick([a_job("a", 4), waiting("b")], 8)) == {"a": 4, "b": 4}


# --- whatever there is --------------------------------------------------------------------------------------


@st.composite
def job_lists(draw: st.DrawFn) -> list[Facts]:
    jobs = []
    for number in range(draw(st.integers(1, 5))):
        each = draw(st.sampled_from([1, 1, 2]))
        low = draw(st.integers(1, 2)) * each
        high = low + draw(st.integers(0, 6)) * each
        gpus = draw(st.integers(low // each, high // each)) * each
        waits = draw(st.booleans())
        jobs.append(
            a_job(
                f"j{number}",
                gpus,
                waits=waits,
                measured=not waits and draw(st.booleans()),
                each=each,
                lowest=low,
                highest=high,
                priority=draw(st.sampled_from([0, 0, 7])),
                policy=draw(st.sampled_from(["goodput", "ppo"])),
                decides=draw(st.sampled_from([True, True, False])),
                acts=draw(st.sampled_from([True, True, False])),
                moved=draw(st.sampled_from([None, 1.0, 100.0])),
                changes=draw(st.sampled_from([False, False, True])),
                namespace=draw(st.sampled_from(["x", "y"])),
            )
        )
    return jobs


@given(jobs=job_lists(), spare=st.integers(0, 6), seed=st.integers(0, 5))
@settings(max_examples=150)
def test_whatever_policies_say_the_rules_hold(jobs: list[Facts], spare: int, seed: int) -> None:
    held = sum(job.gpus for job in jobs if not job.waits)
    capacity = held + spare
    random = np.random.default_rng(seed)

    def anything(name: str, priority: int, seen: ClusterObservation) -> Decision:
        return Decision(choice=random.integers(0, len(seen.sizes), len(seen)))

    outcome = tick(jobs, capacity, equal_shares if seed % 2 else anything)
    assert outcome.targets.keys() == {job.key for job in jobs}
    wanted = 0
    for job in jobs:
        told = outcome.targets[job.key]
        if told.gpus is None:
            assert not job.decides or not job.acts or job.waits
            wanted += 0 if job.waits else job.gpus
            continue
        assert job.lowest <= told.gpus <= job.highest
        assert told.gpus % job.each == 0
        if job.waits:
            continue
        wanted += told.gpus
        if told.gpus > job.gpus:
            assert job.measured
            assert not job.changes
            assert job.moved is None or job.moved >= job.cooldown
        more_important = [w for w in jobs if w.waits and w.priority > job.priority]
        if told.gpus < job.gpus and job.moved == 1.0:
            assert more_important, "only for those is the cool-down ignored"
    assert wanted <= capacity, "nobody is promised what others hold"
    again = tick(after(jobs, outcome.targets), capacity, equal_shares if seed % 2 else anything)
    for job in jobs:
        first, second = outcome.targets[job.key].gpus, again.targets[job.key].gpus
        moved = not job.waits and first not in (None, job.gpus)
        if moved and second is not None and first is not None and (first > job.gpus) != (second > first):
            assert second == first or any(w.waits and w.priority > job.priority for w in jobs), (
                "no move is undone"
            )
