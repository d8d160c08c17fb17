"""What a decision needs to know of a job is read off its spec and status."""

from datetime import timedelta
from typing import Any

import pytest

from cra_operator.api import Job, JobStatus
from cra_operator.controller.facts import Facts, facts_of, takes_part
from tests.operator.operator_world import START, make_job

NOW = START + timedelta(seconds=100)


def read(job: Job) -> Facts:
    return facts_of(job, default="attention", priority=7, fits=5, now=NOW)


def trains(gpus: int = 4, *, scaling: dict[str, Any] | None = None, **status: Any) -> Job:
    """A job whose run has so many GPUs."""
    base = {"phase": "Running", "run": {"gpus": gpus}, "desiredGPUs": gpus, "startTime": START}
    job = make_job(scaling=scaling or {})
    return job.model_copy(update={"status": JobStatus.model_validate(base | status)})


def decision(second: int, **fields: Any) -> dict[str, Any]:
    return {"from": 2, "to": 4, "reason": "GrowthPays", "time": START + timedelta(seconds=second), **fields}


def condition(kind: str, holds: bool, second: int = 0) -> dict[str, Any]:
    since = START + timedelta(seconds=second)
    return {"type": kind, "status": str(holds), "reason": "Because", "lastTransitionTime": since}


def test_a_job_follows_the_clusters_policy_unless_it_names_its_own() -> None:
    assert read(make_job()).policy == "attention"
    assert read(make_job(scaling={"policy": "ppo"})).policy == "ppo"


@pytest.mark.parametrize(
    ("scaling", "decides", "acts"),
    [
        ({}, True, True),
        ({"gpus": 2}, False, True),
        ({"policy": "static"}, False, True),
        ({"mode": "Off"}, False, False),
        ({"mode": "Recommend"}, True, False),
    ],
)
def test_who_decides_about_a_job(scaling: dict[str, Any], decides: bool, acts: bool) -> None:
    facts = read(make_job(scaling=scaling))
    assert (facts.decides, facts.acts) == (decides, acts)


def test_bounds_are_whole_workers() -> None:
    facts = read(make_job(minimum=3, maximum=9, scaling={"gpusPerWorker": "2-4"}))
    assert (facts.each, facts.lowest, facts.highest) == (2, 4, 8)


def test_a_job_that_grows_counts_with_the_size_that_it_grows_to() -> None:
    job = trains(2, run={"gpus": 2, "joining": 3}, desiredGPUs=4)
    assert (read(job).gpus, read(job).changes) == (4, True)
    assert (read(trains(2, desiredGPUs=4)).gpus, read(trains(2, desiredGPUs=4)).changes) == (2, False)


def test_a_job_that_waits_counts_with_what_it_would_start_with() -> None:
    assert (read(make_job(minimum=3)).gpus, read(make_job(minimum=3)).waits) == (3, True)
    restarts = trains(phase="Restarting", desiredGPUs=6)
    assert (read(restarts).gpus, read(restarts).waits) == (6, True)


def test_the_cool_down_begins_when_a_change_is_through() -> None:
    job = trains(decisions=[decision(10)], conditions=[condition("Rescaling", False, 40)])
    assert read(job).moved == 60.0
    assert read(trains(conditions=[condition("Rescaling", False, 40)])).moved is None
    advice = trains(decisions=[decision(10), decision(90, applied=False)])
    assert read(advice).moved == 90.0, "what was only recommended is no change"


def test_a_restart_may_repeat_what_was_not_saved() -> None:
    plain = {"elastic": False}
    assert read(trains(scaling=plain, runningTime=START + timedelta(seconds=20))).unsaved == 80.0
    saved = {"step": 5, "time": START + timedelta(seconds=90)}
    assert read(trains(scaling=plain, runningTime=START, lastCheckpoint=saved)).unsaved == 10.0
    assert read(trains(runningTime=START)).unsaved == 0.0


def test_turns_are_changes_of_a_jobs_own_mind() -> None:
    def after(*reasons: str) -> int:
        made = [decision(i, reason=reason, applied=True) for i, reason in enumerate(reasons)]
        return read(trains(decisions=made)).turns

    assert after("GrowthPays", "GrowthPays", "GivesWay", "GrowthPays") == 0
    assert after("GrowthPays", "FasterSmaller", "GivesWay", "GrowthPays") == 2


def test_a_size_is_known_once_its_speed_was_measured() -> None:
    speed = {"gpus": 4, "nodes": 1, "batchSize": 64, "stepSeconds": 0.1}
    assert read(trains(4, speeds=[speed])).known
    assert not read(trains(2, speeds=[speed])).known


def test_finished_and_suspended_jobs_take_no_part() -> None:
    assert takes_part(make_job())
    assert takes_part(trains(phase="Restarting"))
    assert not takes_part(trains(phase="Succeeded"))
    assert not takes_part(trains(phase="Suspending"))
    assert not takes_part(make_job(suspend=True))
