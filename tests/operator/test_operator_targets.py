"""What the controller wants becomes the size of a job by the steps of what a user wants, with its reason."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from cra_operator.actions import CreatePod, Plan, RecordEvent
from cra_operator.api import Decision, JobKey
from cra_operator.controller.target import Target
from cra_operator.reconcile import reconcile
from tests.operator.operator_world import START, MiniCluster, make_job, make_node


def running(gpus: int = 8, **scaling: Any) -> tuple[MiniCluster, JobKey]:
    """A job that trains on two GPUs and is not pinned."""
    cluster = MiniCluster(make_node(gpus=gpus))
    key = cluster.apply(make_job(minimum=2, maximum=6, scaling=scaling))
    cluster.run(key)
    cluster.events.clear()
    return cluster, key


def want(cluster: MiniCluster, key: JobKey, gpus: int, **fields: Any) -> None:
    told = {"reason": "GrowthPays", "message": "goodput: 60% faster", "policy": "goodput", **fields}
    cluster.targets[key] = Target(gpus=gpus, **told)
    cluster.settle()


def resize(cluster: MiniCluster, key: JobKey, gpus: int, **fields: Any) -> None:
    want(cluster, key, gpus, **fields)
    cluster.run(key)
    cluster.obey(key)


def told(cluster: MiniCluster) -> list[str]:
    return [f"{event.reason}: {event.message}" for event in cluster.events]


def decision(cluster: MiniCluster, key: JobKey) -> Decision:
    found = cluster.status(key).last_decision
    assert found is not None
    return found


def test_a_job_grows_as_the_controller_wants_and_says_why() -> None:
    cluster, key = running()
    resize(cluster, key, 4, gain=0.6, weight=0.7)
    status = cluster.status(key)
    assert (len(status.workers), status.desired_gpus, status.policy) == (4, 4, "goodput")
    made = decision(cluster, key)
    assert (made.from_, made.to, made.reason, made.message) == (2, 4, "GrowthPays", "goodput: 60% faster")
    assert (made.policy, made.weight, made.expected_gain, made.applied) == ("goodput", 0.7, 0.6, True)
    assert "Rescaled: 2 → 4 GPUs while training went on: goodput: 60% faster" in told(cluster)


def affinity_of(plan: Plan) -> list[Any]:
    """The affinity of the pods that a plan creates."""
    return [a.manifest["spec"].get("affinity") for a in plan.actions if isinstance(a, CreatePod)]


def test_workers_that_join_prefer_the_type_that_the_controller_names_and_the_decision_keeps_it() -> None:
    cluster, key = running()
    why = "goodput: 60% faster; new workers prefer T4"
    cluster.targets[key] = Target(gpus=4, reason="GrowthPays", message=why, policy="goodput", gpu_type="T4")
    plan = cluster.reconcile(key)
    terms = [
        found["nodeAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"]
        for found in affinity_of(plan)
    ]
    assert [term[0]["preference"]["matchExpressions"][0]["values"] for term in terms] == [["T4"], ["T4"]]
    assert decision(cluster, key).gpu_type == "T4"
    cluster.targets[key] = Target(
        gpus=4, policy="goodput", reason="Steady", message="goodput: as it should be"
    )
    cluster.run(key)
    assert f"Rescaled: 2 → 4 GPUs while training went on: {why}" in told(cluster)


def test_a_job_that_starts_prefers_the_type_that_the_controller_names_and_says_why() -> None:
    cluster = MiniCluster(make_node(gpus=3))
    key = cluster.apply(make_job(minimum=2))
    cluster.targets[key] = Target(policy="goodput", gpu_type="T4", message="new workers prefer T4")
    plan = cluster.reconcile(key)
    assert all(affinity_of(plan))
    assert told(cluster) == ["Started: generation 1 with 2 GPUs; new workers prefer T4"]


def test_a_job_that_nobody_has_decided_about_starts_on_the_type_that_admission_names() -> None:
    cluster = MiniCluster(make_node(gpus=3))
    key = cluster.apply(make_job(minimum=2))
    world = cluster.world(key)
    assert world.verdict is not None
    plan = reconcile(replace(world, verdict=replace(world.verdict, gpu_type="T4")))
    assert all(affinity_of(plan))
    said = [action.message for action in plan.actions if isinstance(action, RecordEvent)]
    assert "generation 1 with 2 GPUs; new workers prefer T4" in said
    decided = replace(world, verdict=replace(world.verdict, gpu_type="T4"), target=Target(policy="goodput"))
    assert affinity_of(reconcile(decided)) == [None, None], "who was decided about is told by its target"


def test_pods_ask_for_no_type_where_the_controller_names_none() -> None:
    cluster, key = running()
    cluster.targets[key] = Target(gpus=4, policy="goodput")
    assert affinity_of(cluster.reconcile(key)) == [None, None]


def test_a_job_shrinks_for_another_and_says_for_whom() -> None:
    cluster, key = running()
    resize(cluster, key, 4)
    resize(cluster, key, 3, reason="GivesWay", message="goodput: default/urgent waits for 1 GPU")
    assert len(cluster.status(key).workers) == 3
    assert told(cluster)[-1] == (
        "Rescaled: 4 → 3 GPUs while training went on: goodput: default/urgent waits for 1 GPU"
    )


def test_what_the_user_pins_goes_before_what_the_controller_wants() -> None:
    cluster, key = running()
    cluster.edit(key, gpus=3)
    resize(cluster, key, 6)
    assert len(cluster.status(key).workers) == 3
    assert decision(cluster, key).reason == "SpecChanged"
    cluster.edit(key, gpus=None)
    resize(cluster, key, 6)
    assert len(cluster.status(key).workers) == 6


def test_a_target_is_kept_within_bounds_that_changed_meanwhile() -> None:
    cluster, key = running()
    cluster.edit(key, max_gpus=4)
    resize(cluster, key, 6)
    assert len(cluster.status(key).workers) == 4


def test_a_size_that_stays_says_why_it_does() -> None:
    cluster, key = running()
    want(cluster, key, 2, reason="GainTooSmall", message="goodput: 4 would be next, but 2% faster")
    found = cluster.status(key).condition("Rescaling")
    assert found is not None
    assert (found.status, found.reason, found.message) == (
        "False",
        "GainTooSmall",
        "goodput: 4 would be next, but 2% faster",
    )
    assert told(cluster) == []


def test_a_recommendation_is_told_once_and_not_followed() -> None:
    cluster, key = running(mode="Recommend")
    for _ in range(2):
        cluster.targets[key] = Target(
            reason="GrowthPays", message="goodput: 60% faster", policy="goodput", recommended=4
        )
        cluster.settle()
    status = cluster.status(key)
    assert (len(status.workers), status.recommended_gpus) == (2, 4)
    assert told(cluster) == ["Recommended: 2 → 4 GPUs: goodput: 60% faster"]
    assert (decision(cluster, key).to, decision(cluster, key).applied) == (4, False)


def test_growth_that_must_wait_for_others_to_shrink_is_no_warning() -> None:
    cluster, key = running(gpus=4)
    other = cluster.apply(make_job("other", minimum=2))
    cluster.run(other)
    cluster.events.clear()
    want(cluster, key, 4)
    assert told(cluster) == []
    for pod in cluster.newest(other):
        cluster.exit(pod, 0)
    cluster.run(other)
    cluster.run(key)
    assert len(cluster.status(key).workers) == 4


def test_a_waiting_job_starts_with_what_fits_of_what_is_wanted() -> None:
    cluster = MiniCluster(make_node(gpus=3))
    key = cluster.apply(make_job(minimum=2, maximum=6))
    cluster.targets[key] = Target(gpus=6, policy="goodput")
    cluster.run(key)
    assert cluster.status(key).phase == "Running"
    assert len(cluster.status(key).workers) == 3


@pytest.mark.parametrize(
    ("scaling", "workers"),
    [
        ({"policy": "goodput"}, 4),
        ({"policy": "static"}, 2),
        ({}, 2),  # the cluster's default here is static
        ({"policy": "goodput", "elastic": False}, 2),  # it could give nothing back while it trains
        ({"policy": "goodput", "mode": "Recommend"}, 2),
        ({"policy": "goodput", "mode": "Off"}, 2),
        ({"policy": "goodput", "gpus": 3}, 3),
    ],
)
def test_a_job_whose_size_a_policy_decides_starts_with_a_part_of_the_idle_gpus(
    scaling: dict[str, Any], workers: int
) -> None:
    cluster = MiniCluster(make_node(gpus=8))
    cluster.idle_part = 0.5
    key = cluster.apply(make_job(minimum=2, maximum=6, scaling=scaling))
    cluster.run(key)
    assert (len(cluster.status(key).workers), cluster.status(key).desired_gpus) == (workers, workers)


def test_a_job_that_goes_on_after_a_rest_is_the_controllers_to_size() -> None:
    cluster = MiniCluster(make_node(gpus=8))
    cluster.idle_part = 0.5
    key = cluster.apply(make_job(minimum=1, maximum=8, scaling={"policy": "goodput"}))
    cluster.run(key)
    cluster.edit(key, suspend=True)
    cluster.settle()
    cluster.obey(key)
    cluster.targets[key] = Target(gpus=2, policy="goodput")
    cluster.edit(key, suspend=False)
    cluster.run(key)
    assert len(cluster.status(key).workers) == 2


def test_a_waiting_job_says_when_it_is_expected_to_start() -> None:
    cluster = MiniCluster(make_node(gpus=1))
    key = cluster.apply(make_job(minimum=2))
    at = START + timedelta(minutes=3)
    cluster.targets[key] = Target(policy="goodput", start=at)
    cluster.settle()
    assert cluster.status(key).start_estimate == at
    cluster.nodes["more"] = make_node("more", 1)
    cluster.settle()
    assert cluster.status(key).start_estimate is None


@pytest.mark.parametrize("crash_after", range(6))
@pytest.mark.parametrize("gpus", [2, 6])
def test_an_operator_that_dies_in_the_middle_of_a_move_gets_to_the_same_end(
    crash_after: int, gpus: int
) -> None:
    cluster, key = running()
    resize(cluster, key, 4)
    cluster.targets[key] = Target(gpus=gpus, reason="GrowthPays", message="goodput: so", policy="goodput")
    cluster.reconcile(key, crash_after=crash_after)
    again = cluster.targets.pop(key)  # the next operator has not decided yet
    cluster.settle()
    cluster.targets[key] = again
    for _ in range(3):
        cluster.run(key)
        cluster.obey(key)
    status = cluster.status(key)
    assert (len(status.workers), len(cluster.newest(key)), status.desired_gpus) == (gpus, gpus, gpus)
    assert status.restarts == 0
    assert not status.is_true("Rescaling")
