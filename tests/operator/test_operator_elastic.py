"""Pods join and leave an elastic run while it trains: nobody starts anew, and what fails is taken back."""

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cra_operator.actions import CreatePod, DeletePod, Refusal
from cra_operator.api import Condition, JobKey
from cra_operator.controller.target import Target
from cra_operator.reconcile import reconcile
from cra_operator.view import PodView
from tests.operator.operator_world import MiniCluster, make_job, make_node


def running(gpus: int = 8, size: int = 2, **spec: Any) -> tuple[MiniCluster, JobKey]:
    cluster = MiniCluster(make_node(gpus=gpus))
    scaling = {"gpus": size, **spec.pop("scaling", {})}
    key = cluster.apply(make_job(minimum=1, scaling=scaling, **spec))
    cluster.run(key)
    cluster.events.clear()
    return cluster, key


def rescaling(cluster: MiniCluster, key: JobKey) -> Condition:
    found = cluster.status(key).condition("Rescaling")
    assert found is not None
    return found


def names(pods: list[PodView]) -> list[str]:
    return [pod.name for pod in pods]


def told(cluster: MiniCluster, reason: str) -> list[str]:
    return [event.message for event in cluster.events if event.reason == reason]


def shown(cluster: MiniCluster, key: JobKey) -> str | None:
    display = cluster.status(key).display
    assert display is not None
    return display.gpus


# --- growing ------------------------------------------------------------------------------------------------


def test_newcomers_join_while_the_others_train_on() -> None:
    cluster, key = running()
    before = cluster.newest(key)
    cluster.edit(key, gpus=4)
    cluster.settle()
    assert names(cluster.newest(key)) == ["digits-1-0", "digits-1-1", "digits-2-2", "digits-2-3"]
    assert cluster.newest(key)[:2] == before, "nobody who trains is touched"
    status = cluster.status(key)
    assert (status.phase, status.generation, status.desired_gpus) == ("Running", 2, 4)
    assert status.is_true("Running")
    assert (rescaling(cluster, key).status, rescaling(cluster, key).reason) == ("True", "Growing")
    assert rescaling(cluster, key).message.startswith("from 2 GPUs to 4 GPUs while training goes on")
    assert status.last_decision is not None
    assert (status.last_decision.from_, status.last_decision.to) == (2, 4)
    cluster.schedule()
    cluster.settle()
    assert shown(cluster, key) == "2/1-8", "those that prepare do not train yet"
    assert cluster.status(key).gpus == 4, "but they hold their GPUs"
    cluster.start(cluster.newest(key))
    cluster.settle()
    status = cluster.status(key)
    assert (status.phase, status.rescales, status.restarts, status.generation) == ("Running", 1, 0, 2)
    assert [worker.pod for worker in status.workers] == names(cluster.newest(key))
    assert shown(cluster, key) == "4/1-8"
    assert (rescaling(cluster, key).status, rescaling(cluster, key).reason) == ("False", "Rescaled")
    assert told(cluster, "Rescaled") == ["2 → 4 GPUs while training went on"]
    assert status.message == "training on 4 GPUs"
    assert status.decisions == [status.last_decision]


def test_all_of_a_set_join_or_none() -> None:
    cluster, key = running()
    cluster.edit(key, gpus=4)
    cluster.settle()
    cluster.schedule()
    cluster.start(cluster.newest(key)[:3])
    cluster.settle()
    assert len(cluster.status(key).workers) == 2
    assert cluster.status(key).message == (
        "training on 2 GPUs; from 2 GPUs to 4 GPUs while training goes on: 1 of 2 new workers ready"
    )


def test_newcomers_are_all_created_at_once_with_their_places() -> None:
    cluster, key = running()
    cluster.edit(key, gpus=5)
    plan = cluster.reconcile(key)
    created = [action.manifest for action in plan.actions if isinstance(action, CreatePod)]
    assert [pod["metadata"]["annotations"]["cra.dev/joining"] for pod in created] == ["2-4"] * 3
    env = {v["name"]: v.get("value") for v in created[0]["spec"]["containers"][0]["env"]}
    assert (env["CRA_JOINING"], env["WORLD_SIZE"], env["RANK"]) == ("3", "5", "2")
    assert env["MASTER_ADDR"] == "digits-1-0.digits"
    assert plan.holding is not None
    assert plan.holding.gpus == 5
    assert plan.look_again == cluster.now + timedelta(seconds=600)


def test_a_size_that_does_not_fit_changes_nothing_and_is_said() -> None:
    cluster, key = running(gpus=3)
    cluster.edit(key, gpus=4)
    cluster.settle()
    status = cluster.status(key)
    assert (status.phase, status.desired_gpus) == ("Running", 4)
    assert len(cluster.newest(key)) == 2
    assert rescaling(cluster, key).reason == "WaitingForGPUs"
    assert rescaling(cluster, key).message == "keeps 2 GPUs: waiting for 2 GPUs: 1 of 3 free"
    assert len(told(cluster, "RescaleWaiting")) == 1
    plan = cluster.reconcile(key)
    assert plan.holding is not None
    assert plan.holding.gpus == 2, "what it waits for is not kept from others"


def test_it_grows_as_soon_as_there_is_room() -> None:
    cluster, key = running(gpus=4)
    other = cluster.apply(make_job("other", minimum=2))
    cluster.run(other)
    cluster.edit(key, gpus=4)
    cluster.settle()
    assert len(cluster.newest(key)) == 2
    for pod in cluster.newest(other):
        cluster.exit(pod, 0)
    cluster.settle()
    assert len(cluster.newest(key)) == 4


def test_a_wish_that_is_withdrawn_is_forgotten() -> None:
    cluster, key = running(gpus=3)
    cluster.edit(key, gpus=4)
    cluster.settle()
    cluster.edit(key, gpus=2)
    cluster.settle()
    assert rescaling(cluster, key).reason == "NotWanted"
    assert (cluster.status(key).message, cluster.status(key).desired_gpus) == ("training on 2 GPUs", 2)


# --- shrinking ----------------------------------------------------------------------------------------------


def test_the_highest_ranks_leave_and_the_others_train_on() -> None:
    cluster, key = running(gpus=4, size=4)
    cluster.edit(key, gpus=2)
    cluster.settle()
    status = cluster.status(key)
    assert (status.phase, status.desired_gpus, status.generation) == ("Running", 2, 1)
    assert [pod.rank for pod in cluster.newest(key) if pod.deleting] == [2, 3]
    assert (rescaling(cluster, key).status, rescaling(cluster, key).reason) == ("True", "Shrinking")
    assert shown(cluster, key) == "2/1-8"
    assert status.gpus == 4, "those that leave hold their GPUs until they are gone"
    for pod in cluster.newest(key)[2:]:
        cluster.exit(pod, 143)
        cluster.settle()
    assert cluster.status(key).failures == 0, "leaving when told to is no failure"
    cluster.obey(key)
    status = cluster.status(key)
    assert (status.phase, status.rescales, status.restarts, status.gpus) == ("Running", 1, 0, 2)
    assert rescaling(cluster, key).reason == "Rescaled"
    assert told(cluster, "Rescaled") == ["4 → 2 GPUs while training went on"]
    assert names(cluster.newest(key)) == ["digits-1-0", "digits-1-1"]


def test_it_grows_again_only_when_those_that_left_are_gone() -> None:
    cluster, key = running(size=4)
    cluster.edit(key, gpus=2)
    cluster.settle()
    cluster.edit(key, gpus=3)
    cluster.settle()
    assert len(cluster.newest(key)) == 4
    assert cluster.status(key).message == "training on 2 GPUs; 2 pods still to end"
    cluster.obey(key)
    assert names(cluster.newest(key)) == ["digits-1-0", "digits-1-1", "digits-2-2"]
    cluster.run(key)
    status = cluster.status(key)
    assert (status.rescales, len(status.workers)) == (2, 3)
    assert [(d.from_, d.to) for d in status.decisions] == [(4, 2), (2, 3)]


def test_releasing_the_pin_leaves_the_size_to_whoever_decides() -> None:
    cluster, key = running()
    cluster.edit(key, gpus=None)
    cluster.settle()
    assert names(cluster.newest(key)) == ["digits-1-0", "digits-1-1"]
    cluster.targets[key] = Target(gpus=1, reason="GivesWay", message="goodput: somebody waits")
    cluster.settle()
    cluster.obey(key)
    assert names(cluster.newest(key)) == ["digits-1-0"]


# --- changing one's mind ------------------------------------------------------------------------------------


@pytest.mark.parametrize("wish", [1, 2, 3, 6])
def test_another_wish_on_the_way_sends_the_newcomers_home(wish: int) -> None:
    cluster, key = running()
    cluster.edit(key, gpus=4)
    cluster.settle()
    cluster.schedule()
    cluster.edit(key, gpus=wish)
    cluster.settle()
    assert all(pod.deleting for pod in cluster.newest(key) if pod.generation == 2)
    assert cluster.status(key).run.joining is None  # type: ignore[union-attr]
    cluster.obey(key)
    cluster.run(key)
    status = cluster.status(key)
    assert (status.phase, len(status.workers), status.desired_gpus) == ("Running", wish, wish)
    assert status.rescales == (wish != 2)
    assert status.generation == (3 if wish > 2 else 2), "a set that was given up never gets its number back"


def test_a_size_that_changes_before_the_run_has_begun_takes_the_way_by_a_new_start() -> None:
    cluster = MiniCluster()
    key = cluster.apply(make_job(minimum=1, scaling={"gpus": 2}))
    cluster.settle()
    cluster.edit(key, gpus=4)
    cluster.settle()
    assert {pod.run for pod in cluster.newest(key)} == {2}
    assert told(cluster, "Rescaling") == [
        "from 2 GPUs to 4 GPUs by way of a checkpoint and a restart (not all workers take part yet)"
    ]


def test_pods_of_another_size_lead_through_a_checkpoint() -> None:
    cluster, key = running()
    cluster.edit(key, gpus=4)
    cluster.run(key)
    cluster.edit(key, gpus_per_worker=2)
    cluster.settle()
    assert cluster.status(key).phase == "Rescaling"
    assert rescaling(cluster, key).message == (
        "from 4 GPUs to 4 GPUs (2 x 2) by way of a checkpoint and a restart (gpusPerWorker changes)"
    )
    cluster.obey(key)
    cluster.run(key)
    status = cluster.status(key)
    assert (status.phase, status.gpus, status.rescales, status.restarts) == ("Running", 4, 2, 0)
    assert [(pod.name, pod.gpus) for pod in cluster.newest(key)] == [("digits-3-0", 2), ("digits-3-1", 2)]


def test_several_gpus_per_pod_are_counted_in_whole_pods() -> None:
    cluster, key = running(size=4, scaling={"gpusPerWorker": 2})
    cluster.edit(key, gpus=8)
    cluster.run(key)
    assert [(pod.rank, pod.gpus) for pod in cluster.newest(key)] == [(0, 2), (1, 2), (2, 2), (3, 2)]
    assert shown(cluster, key) == "8/1-8"
    cluster.edit(key, gpus=2)
    cluster.settle()
    cluster.obey(key)
    assert names(cluster.newest(key)) == ["digits-1-0"]


def test_a_script_that_is_called_elastic_no_more_takes_nobody_in() -> None:
    cluster, key = running()
    cluster.edit(key, gpus=4)
    cluster.settle()
    cluster.edit(key, elastic=False, gpus=2)
    cluster.settle()
    assert rescaling(cluster, key).reason == "NotWanted"
    cluster.obey(key)
    assert names(cluster.newest(key)) == ["digits-1-0", "digits-1-1"]
    assert cluster.status(key).phase == "Running"


# --- rolling back -------------------------------------------------------------------------------------------


def assert_rolled_back(cluster: MiniCluster, key: JobKey, why: str) -> None:
    cluster.settle()
    cluster.obey(key)
    status = cluster.status(key)
    assert (status.phase, status.desired_gpus, status.failures, status.restarts) == ("Running", 2, 0, 0)
    assert (rescaling(cluster, key).status, rescaling(cluster, key).reason) == ("False", "RolledBack")
    assert rescaling(cluster, key).message.startswith("keeps 2 GPUs: ")
    assert why in rescaling(cluster, key).message
    assert [(d.from_, d.to, d.reason) for d in status.decisions] == [
        (2, 4, "SpecChanged"),
        (4, 2, "RolledBack"),
    ]
    assert status.retry_after == cluster.now + timedelta(seconds=5)
    assert cluster.look_again[key] == status.retry_after
    assert len(told(cluster, "RolledBack")) == 1
    assert [pod for pod in cluster.newest(key) if pod.generation == 2 and not pod.ended] == []
    plan = cluster.reconcile(key)
    assert plan.holding is not None
    assert plan.holding.gpus == 2


def test_newcomers_that_are_not_ready_in_time_are_taken_back() -> None:
    cluster, key = running(startupDeadlineSeconds=60)
    cluster.edit(key, gpus=4)
    cluster.settle()
    cluster.schedule()
    cluster.start(cluster.newest(key)[:3])
    cluster.stuck(cluster.newest(key)[3], "ErrImagePull", "no such image")
    cluster.wait(59)
    cluster.settle()
    assert "rank 3 (pod digits-2-3): ErrImagePull: no such image" in rescaling(cluster, key).message
    cluster.wait(1)
    assert_rolled_back(cluster, key, "1 of 2 new workers ready after 60 s: rank 3 (pod digits-2-3): ErrImage")


def test_a_newcomer_that_fails_takes_its_set_with_it() -> None:
    cluster, key = running()
    cluster.edit(key, gpus=4)
    cluster.settle()
    cluster.schedule()
    cluster.exit(cluster.newest(key)[2], 1, "ImportError: no module named x")
    assert_rolled_back(cluster, key, "rank 2 (pod digits-2-2): exit code 1: ImportError: no module named x")
    assert names(cluster.newest(key))[-1] == "digits-2-2", "its log is kept"


def test_a_newcomer_that_somebody_deletes_takes_its_set_with_it() -> None:
    cluster, key = running()
    cluster.edit(key, gpus=4)
    cluster.settle()
    for pod in cluster.newest(key)[2:]:
        cluster.vanish(pod)
    assert_rolled_back(cluster, key, "the new pods were deleted by someone else")


def test_newcomers_that_find_no_node_are_taken_back() -> None:
    cluster, key = running()
    cluster.edit(key, gpus=4)
    cluster.settle()
    for pod in cluster.newest(key)[2:]:
        cluster.change(pod, unschedulable="0/1 nodes are available")
    cluster.wait(29)
    cluster.settle()
    assert rescaling(cluster, key).status == "True"
    cluster.wait(1)
    assert_rolled_back(cluster, key, "no node takes it: 0/1 nodes are available")


def test_newcomers_that_the_api_server_refuses_are_taken_back() -> None:
    cluster, key = running()
    cluster.edit(key, gpus=4)
    refusal = Refusal(kind="Pod", generation=2, status=403, message="exceeded quota: gpus")
    status = reconcile(cluster.world(key, refusal)).status
    assert (status.phase, status.generation) == ("Running", 2)
    assert status.run is not None
    assert (status.run.joining, status.run.missed_gpus) == (None, 4)
    condition = status.condition("Rescaling")
    assert condition is not None
    assert condition.reason == "RolledBack"
    assert "exceeded quota" in condition.message


def test_what_was_rolled_back_is_tried_again_ever_later_or_at_once_when_wanted_otherwise() -> None:
    cluster, key = running()
    cluster.edit(key, gpus=4)
    for wait in (5, 10, 20):
        cluster.settle()
        cluster.exit(cluster.newest(key)[-1], 1)
        cluster.settle()
        cluster.obey(key)
        assert cluster.status(key).retry_after == cluster.now + timedelta(seconds=wait)
        cluster.wait(wait - 1)
        cluster.settle()
        assert cluster.status(key).run.joining is None  # type: ignore[union-attr]
        cluster.wait(1)
    cluster.settle()
    assert cluster.status(key).run.joining == 5  # type: ignore[union-attr]
    assert len(cluster.newest(key)) == 4, "what is left of the earlier tries is gone"
    cluster.exit(cluster.newest(key)[-1], 1)
    cluster.settle()
    cluster.obey(key)
    cluster.edit(key, gpus=3)
    cluster.run(key)
    status = cluster.status(key)
    assert (len(status.workers), status.generation) == (3, 6)
    assert status.run is not None
    assert (status.run.missed_gpus, status.run.setbacks) == (None, None)


# --- the end of a run with pods of several sets -------------------------------------------------------------


def test_a_suspended_run_is_told_by_rank_zero_first() -> None:
    cluster, key = running()
    cluster.edit(key, gpus=3)
    cluster.run(key)
    cluster.edit(key, suspend=True)
    plan = cluster.reconcile(key)
    leavers = [action.name for action in plan.actions if isinstance(action, DeletePod)]
    assert leavers == ["digits-1-0", "digits-1-1", "digits-2-2"]
    cluster.obey(key)
    assert cluster.status(key).phase == "Suspended"
    cluster.edit(key, suspend=False)
    cluster.run(key)
    assert names(cluster.newest(key)) == ["digits-3-0", "digits-3-1", "digits-3-2"]


def test_newcomers_that_come_too_late_do_not_hold_up_success() -> None:
    cluster, key = running()
    cluster.edit(key, gpus=5)
    cluster.settle()
    cluster.schedule()
    first, second, *newcomers = cluster.newest(key)
    cluster.exit(newcomers[0], 75)
    cluster.settle()
    cluster.exit(first, 0)
    cluster.settle()
    assert cluster.status(key).phase == "Running", "rank 1 is not done"
    cluster.exit(second, 0)
    cluster.settle()
    cluster.obey(key)
    assert cluster.status(key).phase == "Succeeded"
    assert not cluster.status(key).is_true("Rescaling")
    assert names(cluster.newest(key)) == ["digits-1-0", "digits-1-1", "digits-2-2"]
    assert told(cluster, "RolledBack") == []


def test_a_run_whose_leader_is_done_takes_nobody_in_and_mourns_nobody() -> None:
    cluster, key = running(size=3)
    first, second, third = cluster.newest(key)
    cluster.exit(first, 0)
    cluster.exit(second, 137)
    cluster.edit(key, gpus=4)
    cluster.settle()
    assert len(cluster.newest(key)) == 3
    cluster.vanish(third)
    cluster.settle()
    status = cluster.status(key)
    assert (status.phase, status.failures) == ("Succeeded", 0)


# --- dying on the way ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("crash_after", range(6))
@pytest.mark.parametrize("wish", [1, 2, 5, 6])
def test_an_operator_that_dies_on_the_way_goes_on(wish: int, crash_after: int) -> None:
    cluster, key = running(size=3)
    cluster.edit(key, gpus=wish)
    cluster.reconcile(key, crash_after=crash_after)
    cluster.settle()
    cluster.obey(key)
    cluster.run(key)
    status = cluster.status(key)
    assert (status.phase, len(status.workers), status.gpus) == ("Running", wish, wish)
    assert (status.rescales, status.restarts, status.failures, status.generation) == (1, 0, 0, 1 + (wish > 3))
    assert [(d.from_, d.to) for d in status.decisions] == [(3, wish)]
    assert {pod.run for pod in cluster.newest(key)} == {1}


@pytest.mark.parametrize("crash_after", range(5))
def test_newcomers_of_a_dead_operator_are_sent_home_if_nobody_wants_them_now(crash_after: int) -> None:
    cluster, key = running()
    cluster.edit(key, gpus=5)
    cluster.reconcile(key, crash_after=crash_after)
    cluster.edit(key, gpus=2)
    cluster.settle()
    cluster.obey(key)
    assert names(cluster.newest(key)) == ["digits-1-0", "digits-1-1"]
    assert rescaling(cluster, key).status == "False" if crash_after else True


# --- what it costs ------------------------------------------------------------------------------------------

steps = st.lists(
    st.tuples(
        st.sampled_from(["scale", "wait", "kill", "evict", "vanish", "suspend", "resume"]),
        st.integers(1, 5),
        st.none() | st.integers(0, 4),
    ),
    max_size=25,
)


@given(steps)
def test_gpu_seconds_are_what_was_held_whoever_came_and_went(done: list[tuple[str, int, int | None]]) -> None:
    cluster, key = running(gpus=5, backoffLimit=100)
    burnt = cluster.status(key).gpu_seconds or 0.0
    for what, number, crash_after in done:
        pods = [pod for pod in cluster.newest(key) if not pod.ended]
        victim = pods[number % len(pods)] if pods else None
        if what == "scale":
            cluster.edit(key, gpus=number)
        elif what in ("suspend", "resume"):
            cluster.edit(key, suspend=what == "suspend")
        elif what == "wait":
            burnt += number * sum(pod.gpus for pod in pods if pod.node)
            cluster.wait(number)
        elif victim is not None and what == "kill" and victim.node:
            cluster.exit(victim, 137)
        elif victim is not None and what == "evict" and not victim.deleting:
            grace = cluster.now + timedelta(seconds=60)
            cluster.change(victim, disruption="EvictionByEvictionAPI", deleted=cluster.now, deadline=grace)
        elif victim is not None and what == "vanish" and not victim.node:
            cluster.vanish(victim)
        cluster.reconcile(key, crash_after=crash_after)
        cluster.settle()
        cluster.schedule()
        cluster.start(pod for pod in cluster.newest(key) if not pod.deleting)
        cluster.settle()
        if number % 2:
            cluster.obey(key)
    assert cluster.status(key).gpu_seconds == burnt


def test_a_worker_that_is_gone_at_once_has_worked_until_now() -> None:
    cluster, key = running(size=3)
    cluster.wait(10)
    cluster.vanish(cluster.newest(key)[2])
    cluster.settle()
    assert cluster.status(key).gpu_seconds == 30.0
    cluster.wait(10)
    cluster.settle()
    assert cluster.status(key).gpu_seconds == 50.0
