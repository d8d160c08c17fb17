"""A worker that is slow for good gives its place to a pod on another node, where its owner wants that."""

from datetime import timedelta

import pytest

from cra_operator.actions import CreatePod
from cra_operator.api import Condition, JobKey
from cra_operator.build import pod as build_pod
from cra_operator.controller.observation import Observation, WorkerSample
from cra_operator.sizing import Cohort, Size
from cra_operator.stragglers import Choice, choose
from cra_operator.view import NodeView
from tests.operator.operator_world import START, MiniCluster, make_job, make_node, make_pod

FIRST, SECOND = make_pod(1), make_pod(2)


# --- who is chosen ------------------------------------------------------------------------------------------


def test_who_is_slow_is_only_reported_unless_the_job_says_otherwise() -> None:
    assert choose([FIRST], policy="Report", last=None, cooldown=60, now=START) == Choice()
    assert choose([FIRST], policy="Replace", last=None, cooldown=60, now=START) == Choice(pod=FIRST)


def test_they_are_replaced_one_at_a_time_and_the_leader_never() -> None:
    leader = make_pod(0)
    found = choose([leader, FIRST, SECOND], policy="Replace", last=None, cooldown=60, now=START)
    assert found.pod == FIRST
    alone = choose([leader], policy="Replace", last=None, cooldown=60, now=START)
    assert alone.pod is None
    assert alone.why == "rank 0 leads the run, which would have to start again without it"


@pytest.mark.parametrize(("passed", "chosen"), [(59, None), (60, FIRST)])
def test_after_one_the_next_waits_for_the_cool_down(passed: int, chosen: object) -> None:
    now = START + timedelta(seconds=passed)
    found = choose([FIRST], policy="Replace", last=START, cooldown=60, now=now)
    assert found.pod == chosen
    assert found.until == (None if chosen else START + timedelta(seconds=60))
    assert bool(found.why) != bool(chosen)


# --- how the run changes ------------------------------------------------------------------------------------


def running(*nodes: NodeView, size: int = 3, policy: str = "Replace") -> tuple[MiniCluster, JobKey]:
    """A job that fills its nodes in order."""
    cluster = MiniCluster(*nodes)
    scaling = {"gpus": size, "stragglers": policy}
    key = cluster.apply(make_job(minimum=1, scaling=scaling))
    cluster.run(key)
    cluster.events.clear()
    return cluster, key


def look(cluster: MiniCluster, key: JobKey, *slow: str) -> None:
    """The trainers report these pods as slow for good, and no other."""
    run = cluster.newest(key)[0].run
    workers = {pod.name: WorkerSample(straggler=pod.name in slow) for pod in cluster.newest(key)}
    cluster.observations[key] = Observation(time=cluster.now, run=run, workers=workers)
    cluster.settle()


def degraded(cluster: MiniCluster, key: JobKey) -> Condition:
    found = cluster.status(key).condition("Degraded")
    assert found is not None
    return found


def places(cluster: MiniCluster, key: JobKey) -> dict[str, str]:
    return {pod.name: pod.node for pod in cluster.newest(key)}


def told(cluster: MiniCluster, reason: str) -> list[str]:
    return [event.message for event in cluster.events if event.reason == reason]


def test_a_straggler_leaves_and_another_pod_takes_its_place_on_another_node() -> None:
    cluster, key = running(make_node("a", 2), make_node("slow", 2), make_node("z", 2))
    assert places(cluster, key) == {"digits-1-0": "a", "digits-1-1": "a", "digits-1-2": "slow"}
    look(cluster, key, "digits-1-2")
    status = cluster.status(key)
    assert [worker.rank for worker in status.workers] == [0, 1]
    assert status.message == "training on 2 of 3 GPUs; 1 pod still to end"
    assert degraded(cluster, key).reason == "ReplacingStraggler"
    why = (
        "training goes on with 2 of 3 workers: rank 2 (pod digits-1-2 on slow) was slow for good, "
        "and another pod takes its place on another node"
    )
    assert degraded(cluster, key).message == why
    assert told(cluster, "ReplacingStraggler") == [why]
    cluster.obey(key)
    cluster.run(key)
    assert places(cluster, key) == {"digits-1-0": "a", "digits-1-1": "a", "digits-2-2": "z"}
    status = cluster.status(key)
    assert [worker.pod for worker in status.workers] == ["digits-1-0", "digits-1-1", "digits-2-2"]
    assert (status.restarts, status.failures, status.rescales, status.phase) == (0, 0, 0, "Running")
    assert degraded(cluster, key).reason == "AsExpected"
    assert told(cluster, "Replaced") == ["3 of 3 workers train again"]
    assert told(cluster, "StragglerRecovered") == []


def test_by_default_a_straggler_stays() -> None:
    cluster, key = running(make_node("a", 2), make_node("slow", 2), policy="Report")
    before = cluster.pods_of(key)
    look(cluster, key, "digits-1-2")
    assert cluster.pods_of(key) == before
    assert degraded(cluster, key).message.endswith("delete the pod to have another one")


def test_without_another_node_it_stays_and_the_job_says_so_until_there_is_one() -> None:
    cluster, key = running(make_node("a", 2), make_node("slow", 4))
    before = cluster.pods_of(key)
    look(cluster, key, "digits-1-2")
    assert cluster.pods_of(key) == before
    assert degraded(cluster, key).reason == "Straggler"
    stays = "It stays: no other node has room for a pod in its place (waiting for 1 GPU: 0 of 2 free)"
    assert degraded(cluster, key).message.endswith(stays)
    assert told(cluster, "Straggler")[0].endswith(stays)
    assert cluster.status(key).condition("Rescaling") is None, "no other size is waited for"
    cluster.nodes["z"] = make_node("z", 1)
    cluster.settle()
    cluster.obey(key)
    cluster.run(key)
    assert places(cluster, key)["digits-2-2"] == "z"


def test_nobody_goes_back_to_a_node_where_another_was_slow() -> None:
    cluster, key = running(make_node("a", 2), make_node("slow", 2), make_node("z", 1))
    look(cluster, key, "digits-1-2")
    cluster.obey(key)
    cluster.run(key)
    look(cluster, key, "digits-2-2")
    assert "another worker was replaced" in degraded(cluster, key).message
    assert cluster.look_again[key] == START + timedelta(seconds=60)
    cluster.wait(60)
    cluster.settle()
    assert "no other node has room" in degraded(cluster, key).message
    assert places(cluster, key)["digits-2-2"] == "z"


def test_if_the_other_node_is_taken_meanwhile_the_pod_goes_where_there_is_room() -> None:
    cluster, key = running(make_node("a", 2), make_node("slow", 2), make_node("z", 1))
    look(cluster, key, "digits-1-2")
    del cluster.nodes["z"]
    cluster.obey(key)
    cluster.run(key)
    assert places(cluster, key) == {"digits-1-0": "a", "digits-1-1": "a", "digits-2-2": "slow"}
    assert degraded(cluster, key).status == "False"


def test_a_replacement_that_the_scheduler_will_not_place_is_tried_on_any_node() -> None:
    cluster, key = running(make_node("a", 2), make_node("slow", 2), make_node("z", 1))
    look(cluster, key, "digits-1-2")
    cluster.obey(key)
    cluster.nodes["z"] = make_node("z", 0)
    cluster.schedule()
    assert places(cluster, key)["digits-2-2"] == ""
    cluster.wait(30)
    cluster.settle()
    assert "digits-2-2" not in places(cluster, key)
    cluster.wait(5)
    cluster.settle()
    cluster.run(key)
    assert places(cluster, key)["digits-3-2"] == "slow"


def test_an_operator_that_dies_on_the_way_replaces_one_worker_all_the_same() -> None:
    for steps in range(3):
        cluster, key = running(make_node("a", 2), make_node("slow", 2), make_node("z", 2))
        workers = {"digits-1-2": WorkerSample(straggler=True)}
        cluster.observations[key] = Observation(time=START, run=1, workers=workers)
        cluster.reconcile(key, crash_after=steps)
        cluster.settle()
        cluster.obey(key)
        cluster.reconcile(key, crash_after=steps)
        cluster.run(key)
        assert places(cluster, key) == {"digits-1-0": "a", "digits-1-1": "a", "digits-2-2": "z"}


def test_a_size_that_is_waited_for_comes_first() -> None:
    cluster, key = running(make_node("a", 2), make_node("slow", 1), make_node("z", 1))
    cluster.edit(key, gpus=6)
    look(cluster, key, "digits-1-2")
    assert len(cluster.status(key).workers) == 3
    assert degraded(cluster, key).message.endswith("when the run has the size that is wanted")


# --- the pod ------------------------------------------------------------------------------------------------


def test_the_new_pod_keeps_what_the_template_asks_of_nodes() -> None:
    zones = [{"key": "zone", "operator": "In", "values": [zone]} for zone in ("a", "b")]
    affinity = {
        "nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {
                "nodeSelectorTerms": [{"matchExpressions": [zone]} for zone in zones]
            }
        },
        "podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []},
    }
    trainer = {"name": "trainer", "image": "x"}
    job = make_job(template={"spec": {"containers": [trainer], "affinity": affinity}})
    size = Size(workers=3, gpus_per_worker=1)
    cohort = Cohort(run=1, generation=2, size=size, ranks=(2,), avoid=("slow", "n-1"))
    built = build_pod(job, cohort=cohort, rank=2, image="", image_pull_policy="Always")["spec"]["affinity"]
    away = [{"key": "metadata.name", "operator": "NotIn", "values": [node]} for node in ("slow", "n-1")]
    assert built["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"] == {
        "nodeSelectorTerms": [{"matchExpressions": [zone], "matchFields": away} for zone in zones]
    }
    assert built["podAntiAffinity"] == affinity["podAntiAffinity"]


def test_other_pods_may_go_anywhere() -> None:
    cluster, key = running(make_node("a", 4))
    cluster.edit(key, gpus=4)
    plan = cluster.reconcile(key)
    created = [action.manifest for action in plan.actions if isinstance(action, CreatePod)]
    assert created
    assert all("affinity" not in manifest["spec"] for manifest in created)
