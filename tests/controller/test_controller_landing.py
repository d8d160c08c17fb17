"""From sizes to the types of GPU that new workers prefer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cra_operator.api import Job, JobKey, JobStatus
from cra_operator.controller.deciding import Outcome
from cra_operator.controller.facts import Facts
from cra_operator.controller.gpu_types import NOBODY
from cra_operator.controller.landing import with_types
from cra_operator.controller.sharing import Standing
from cra_operator.controller.target import Target
from tests.controller.deciding_world import a_job, waiting
from tests.operator.operator_world import make_job, make_node

AT = {"a": make_node("a"), "t": make_node("t", gpu_type="T4")}
WORTH = {"A100": 200.0, "T4": 100.0}


def job(name: str, *types: str, **spec: Any) -> Job:
    """A job with one worker on each of these types."""
    workers = [{"rank": rank, "gpus": 1, "gpuType": kind} for rank, kind in enumerate(types)]
    return make_job(name, **spec).model_copy(
        update={"status": JobStatus.model_validate({"workers": workers})}
    )


def outcome(targets: Mapping[JobKey, Target]) -> Outcome:
    """A decision with these targets."""
    return Outcome(targets=targets, standing=Standing(), troubles={})


def for_newcomers(free: dict[str, int], *told: tuple[Facts, Target]) -> str | None:
    """The type on which jobs had best start that come before the next decision."""
    decided = outcome({facts.key: target for facts, target in told})
    jobs = {facts.key: job(facts.key[1]) for facts, _ in told}
    worth = {facts.key: WORTH for facts, _ in told} | {NOBODY: WORTH}
    return with_types(decided, [facts for facts, _ in told], jobs, worth, AT, free).standing.gpu_type


def landed(
    free: dict[str, int], *told: tuple[Facts, Target], **jobs: Job
) -> dict[str, tuple[str | None, str]]:
    """The type that is preferred for each job, and the message."""
    found = with_types(
        outcome({facts.key: target for facts, target in told}),
        [facts for facts, _ in told],
        {facts.key: jobs.get(facts.key[1], job(facts.key[1])) for facts, _ in told},
        {facts.key: WORTH for facts, _ in told} | {NOBODY: WORTH},
        AT,
        free,
    )
    return {name: (target.gpu_type, target.message) for (_, name), target in found.targets.items()}


def test_a_decision_that_grows_a_job_tells_its_type_and_the_reason() -> None:
    told = landed({"a": 4, "t": 4}, (a_job("a", 2), Target(gpus=4, message="goodput: 60% faster")))
    assert told["a"] == (
        "A100",
        "goodput: 60% faster; new workers prefer A100, 2.0 times as fast for it as T4",
    )


def test_gpus_that_a_shrinking_job_gives_back_are_of_the_type_of_its_highest_ranks() -> None:
    def told(*types: str) -> str | None:
        shrinks, grows = (a_job("low", 4), Target(gpus=2)), (a_job("a", 2), Target(gpus=4))
        return landed({"a": 0, "t": 2}, shrinks, grows, low=job("low", *types))["a"][0]

    assert told("T4", "T4", "A100", "A100") == "A100"
    assert told("A100", "A100", "T4", "T4") is None, "there is no other"


def test_a_job_that_can_start_is_told_a_type_and_one_that_has_to_wait_is_not() -> None:
    free = {"a": 2, "t": 2}
    told = landed(free, (waiting("now", 2, fits=4), Target()), (waiting("later", 5, fits=4), Target()))
    assert told == {
        "now": ("A100", "new workers prefer A100, 2.0 times as fast for it as T4"),
        "later": (None, ""),
    }
    assert landed(free, (waiting("shut", 2), Target(message="its GPU-hours are used up")))["shut"][0] is None


def test_a_job_takes_no_more_of_the_fast_type_than_it_is_to_have() -> None:
    told = landed({"a": 3, "t": 4}, (waiting("x", 1, fits=7), Target(gpus=3)), (a_job("y"), Target(gpus=2)))
    assert (told["x"][0], told["y"][0]) == ("A100", "T4")


def test_a_job_whose_nodes_are_of_one_type_by_its_selector_is_left_alone() -> None:
    pod = {"containers": [], "nodeSelector": {"nvidia.com/gpu.product": "T4"}}
    labelled = {
        name: make_node(name, gpu_type=kind, labels={"nvidia.com/gpu.product": kind})
        for name, kind in (("a", "A100"), ("t", "T4"))
    }
    facts = a_job("picky")
    picky = job("picky", template={"spec": pod})
    decided = outcome({facts.key: Target(gpus=2)})
    worth = {facts.key: WORTH, NOBODY: WORTH}
    found = with_types(decided, [facts], {facts.key: picky}, worth, labelled, {"a": 4, "t": 4})
    assert found.targets == decided.targets


def test_jobs_that_stay_or_start_anew_at_every_change_are_told_nothing() -> None:
    told = landed(
        {"a": 4, "t": 4},
        (a_job("stays", 2), Target(gpus=2)),
        (a_job("pinned", 2), Target()),
        (a_job("by-checkpoint", 2, elastic=False), Target(gpus=4)),
    )
    assert {kind for kind, _ in told.values()} == {None}


def test_jobs_that_come_before_the_next_decision_start_on_the_best_of_what_others_leave() -> None:
    grows = a_job("a", 2), Target(gpus=4)
    assert for_newcomers({"a": 4, "t": 4}, grows) == "A100"
    assert for_newcomers({"a": 2, "t": 4}, grows) == "T4"
    assert for_newcomers({"a": 0, "t": 4}) is None, "there is no choice"
