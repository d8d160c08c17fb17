"""Workers that an elastic run loses: it goes on without them, counts each once, and replaces them."""

from datetime import timedelta
from typing import Any

import pytest

from cra_operator.api import Condition, JobKey
from cra_operator.lifecycle.losses import OUTLIVE
from cra_operator.view import LOST_NODE_GRACE, PodView
from tests.operator.operator_world import MiniCluster, make_job, make_node


def running(size: int = 4, gpus: int = 8, **spec: Any) -> tuple[MiniCluster, JobKey]:
    cluster = MiniCluster(make_node(gpus=gpus))
    key = cluster.apply(make_job(minimum=size, **spec))
    cluster.run(key)
    cluster.events.clear()
    return cluster, key


def look(cluster: MiniCluster, key: JobKey, *, after: float = 0) -> None:
    cluster.wait(after)
    cluster.settle(key)


def evict(cluster: MiniCluster, pod: PodView) -> None:
    grace = cluster.now + timedelta(seconds=60)
    cluster.change(pod, disruption="EvictionByEvictionAPI", deleted=cluster.now, deadline=grace)


def ranks(cluster: MiniCluster, key: JobKey) -> list[int]:
    return [worker.rank for worker in cluster.status(key).workers]


def degraded(cluster: MiniCluster, key: JobKey) -> Condition:
    found = cluster.status(key).condition("Degraded")
    assert found is not None
    return found


def test_training_goes_on_without_a_killed_worker_and_it_is_replaced() -> None:
    cluster, key = running()
    cluster.exit(cluster.newest(key)[2], 137)
    cluster.settle()
    assert cluster.status(key).failures == 0, "the leader may be next: then it is one failure, not two"
    assert cluster.look_again[key] == cluster.now + OUTLIVE
    look(cluster, key, after=5)
    status = cluster.status(key)
    assert (status.phase, status.failures, status.restarts, ranks(cluster, key)) == (
        "Running",
        1,
        0,
        [0, 1, 3],
    )
    assert (degraded(cluster, key).status, degraded(cluster, key).reason) == ("True", "Killed")
    assert degraded(cluster, key).message == (
        "training goes on with 3 of 4 workers: rank 2 (pod digits-1-2): killed from outside (SIGKILL)"
    )
    assert status.message == "training on 3 of 4 GPUs; next try at 00:00:10 UTC"
    assert status.display is not None
    assert (status.display.phase, status.display.gpus) == ("Running", "3/4-8")
    assert [(event.type, event.reason) for event in cluster.events] == [("Warning", "Killed")]
    assert "failure 1 of 3 allowed" in cluster.events[0].message
    assert status.retry_after == cluster.now + timedelta(seconds=5)
    look(cluster, key, after=5)
    names = [pod.name for pod in cluster.newest(key)]
    assert names == ["digits-1-0", "digits-1-1", "digits-2-2", "digits-1-3"]
    condition = cluster.status(key).condition("Rescaling")
    assert condition is not None
    assert (condition.status, condition.reason) == ("True", "Replacing")
    assert condition.message.startswith("from 3 GPUs to 4 GPUs while training goes on")
    cluster.run(key)
    status = cluster.status(key)
    assert ranks(cluster, key) == [0, 1, 2, 3]
    assert (status.restarts, status.rescales, status.failures, status.message) == (
        0,
        0,
        1,
        "training on 4 GPUs",
    )
    assert not status.is_true("Degraded")
    assert cluster.events[-1].message == "4 of 4 workers train again"
    assert status.decisions == [], "the size did not change"


def test_an_evicted_worker_is_not_counted_and_leaves_before_it_is_replaced() -> None:
    cluster, key = running(backoffLimit=0)
    evict(cluster, cluster.newest(key)[1])
    cluster.settle()
    assert (cluster.status(key).failures, ranks(cluster, key)) == (0, [0, 2, 3])
    assert degraded(cluster, key).reason == "Evicted"
    look(cluster, key, after=30)
    assert len(cluster.newest(key)) == 4, "it may still be computing"
    assert cluster.status(key).message == "training on 3 of 4 GPUs; 1 pod still to end"
    cluster.obey(key)
    cluster.run(key)
    assert ranks(cluster, key) == [0, 1, 2, 3]
    assert cluster.status(key).gpus == 4


def test_a_worker_on_a_dead_node_is_waited_for_no_longer_than_it_may_compute() -> None:
    cluster, key = running()
    cluster.nodes["gpu-1"] = make_node("gpu-1")
    pod = cluster.newest(key)[1]
    grace = cluster.now + timedelta(seconds=60)
    cluster.change(pod, node="gone", disruption="DeletionByTaintManager", deleted=cluster.now, deadline=grace)
    cluster.settle()
    look(cluster, key, after=1)
    again = cluster.look_again[key]
    assert again == grace + LOST_NODE_GRACE
    assert [pod.generation for pod in cluster.newest(key)] == [1, 1, 1, 1]
    cluster.now = again
    cluster.settle()
    cluster.run(key)
    assert [(pod.rank, pod.generation) for pod in cluster.newest(key) if pod.node != "gone"] == [
        (0, 1),
        (1, 2),
        (2, 1),
        (3, 1),
    ]


def test_a_worker_that_vanished_is_replaced() -> None:
    cluster, key = running()
    cluster.vanish(cluster.newest(key)[3])
    cluster.settle()
    assert degraded(cluster, key).reason == "PodDeleted"
    look(cluster, key, after=1)
    cluster.run(key)
    assert cluster.newest(key)[3].name == "digits-2-3"
    assert (cluster.status(key).failures, cluster.status(key).restarts) == (0, 0)


@pytest.mark.parametrize("also", [(), (1,), (1, 2, 3)])
def test_without_its_leader_the_run_is_lost_and_it_is_one_failure(also: tuple[int, ...]) -> None:
    cluster, key = running()
    for rank in also:
        cluster.exit(cluster.newest(key)[rank], 1, "ValueError: bad label")
        look(cluster, key, after=1)
    cluster.exit(cluster.newest(key)[0], 1, "ValueError: bad label")
    cluster.settle()
    status = cluster.status(key)
    assert (status.phase, status.failures, status.restarts) == ("Restarting", 1, 1)
    assert status.display is not None
    assert status.display.phase == "Restarting/ScriptError"
    cluster.obey(key, code=75)
    cluster.wait(5)
    cluster.run(key)
    assert {pod.run for pod in cluster.newest(key)} == {2}
    assert (cluster.status(key).phase, cluster.status(key).generation) == ("Running", 2)


def test_the_next_run_starts_at_the_size_that_is_wanted_with_the_next_number() -> None:
    cluster, key = running(size=2)
    cluster.edit(key, gpus=4)
    cluster.run(key)
    evict(cluster, cluster.newest(key)[0])
    cluster.settle()
    assert cluster.status(key).phase == "Restarting"
    cluster.obey(key)
    cluster.wait(1)
    cluster.run(key)
    assert [pod.name for pod in cluster.newest(key)] == [f"digits-3-{rank}" for rank in range(4)]


def test_more_failures_than_allowed_end_the_job() -> None:
    cluster, key = running(backoffLimit=1)
    for _ in range(2):
        cluster.exit(cluster.newest(key)[1], 1, "ValueError: bad label")
        look(cluster, key, after=5)
        look(cluster, key, after=5)
        cluster.run(key)
    status = cluster.status(key)
    assert (status.phase, status.failures, status.restarts) == ("Failed", 2, 0)
    assert status.display is not None
    assert status.display.phase == "Failed/ScriptError"
    cluster.obey(key)
    assert cluster.status(key).gpus == 0


def test_several_that_die_together_are_one_failure() -> None:
    cluster, key = running()
    for pod in cluster.newest(key)[1:3]:
        cluster.exit(pod, 1, "ValueError: bad label")
    look(cluster, key, after=5)
    assert (cluster.status(key).failures, ranks(cluster, key)) == (1, [0, 3])
    look(cluster, key, after=5)
    cluster.run(key)
    assert [pod.generation for pod in cluster.newest(key)] == [1, 2, 2, 1], "and are replaced together"


def test_a_worker_that_only_lost_touch_is_looked_into_first() -> None:
    cluster, key = running()
    cluster.exit(cluster.newest(key)[1], 75)
    look(cluster, key, after=5)
    assert cluster.status(key).message == "training on 4 GPUs; a worker lost a peer: looking for the cause"
    look(cluster, key, after=15)
    assert (degraded(cluster, key).reason, ranks(cluster, key)) == ("PeerLost", [0, 2, 3])


def test_a_place_without_a_free_gpu_stays_empty_and_holds_nothing() -> None:
    cluster, key = running(gpus=4)
    cluster.exit(cluster.newest(key)[3], 137)
    look(cluster, key, after=5)
    other = cluster.apply(make_job("other", minimum=1))
    cluster.run(other)
    assert cluster.status(other).phase == "Running"
    look(cluster, key, after=5)
    status = cluster.status(key)
    assert (status.phase, ranks(cluster, key)) == ("Running", [0, 1, 2])
    condition = status.condition("Rescaling")
    assert condition is not None
    assert (condition.reason, condition.message) == (
        "WaitingForGPUs",
        "keeps 4 GPUs: waiting for 1 GPU: 0 of 4 free",
    )
    assert status.message == "training on 3 of 4 GPUs; waiting for 1 GPU: 0 of 4 free"
    for pod in cluster.newest(other):
        cluster.exit(pod, 0)
    cluster.settle()
    cluster.run(key)
    assert ranks(cluster, key) == [0, 1, 2, 3]


def test_a_full_cluster_gives_a_lost_workers_own_gpu_to_the_next() -> None:
    cluster, key = running(gpus=4)
    cluster.exit(cluster.newest(key)[3], 137)
    look(cluster, key, after=5)
    look(cluster, key, after=5)
    cluster.run(key)
    assert ranks(cluster, key) == [0, 1, 2, 3]


def test_shrinking_below_an_empty_place_needs_no_replacement() -> None:
    cluster, key = running(size=2, gpus=4)
    cluster.edit(key, gpus=4)
    cluster.run(key)
    cluster.vanish(cluster.newest(key)[3])
    cluster.settle()
    cluster.edit(key, gpus=3)
    cluster.settle()
    status = cluster.status(key)
    assert (ranks(cluster, key), status.rescales, status.is_true("Degraded")) == ([0, 1, 2], 2, False)
    condition = status.condition("Rescaling")
    assert condition is not None
    assert condition.reason == "Rescaled"
    look(cluster, key, after=100)
    assert len(cluster.newest(key)) == 3


def test_a_worker_lost_while_others_join_keeps_nobody_from_joining() -> None:
    cluster, key = running(size=2)
    cluster.edit(key, gpus=4)
    cluster.settle()
    cluster.schedule()
    evict(cluster, cluster.newest(key)[1])
    cluster.settle()
    cluster.start(pod for pod in cluster.newest(key) if not pod.deleting)
    cluster.settle()
    assert ranks(cluster, key) == [0, 2, 3]
    assert cluster.status(key).is_true("Degraded")
    cluster.obey(key)
    look(cluster, key, after=1)
    cluster.run(key)
    assert ranks(cluster, key) == [0, 1, 2, 3]
    assert not cluster.status(key).is_true("Degraded")


def test_losses_in_quick_succession_are_made_up_for_ever_more_slowly() -> None:
    cluster, key = running()
    for wait in (1, 2, 4, 8):
        evict(cluster, cluster.newest(key)[1])
        cluster.settle()
        assert cluster.status(key).retry_after == cluster.now + timedelta(seconds=wait)
        cluster.obey(key)
        look(cluster, key, after=wait)
        cluster.run(key)
        assert ranks(cluster, key) == [0, 1, 2, 3]
    cluster.wait(400)
    evict(cluster, cluster.newest(key)[1])
    cluster.settle()
    assert cluster.status(key).retry_after == cluster.now + timedelta(seconds=1), "it had been well for long"


@pytest.mark.parametrize("crash_after", range(5))
def test_a_loss_is_counted_once_whatever_dies_with_the_operator(crash_after: int) -> None:
    cluster, key = running()
    cluster.exit(cluster.newest(key)[1], 1, "ValueError: bad label")
    cluster.wait(5)
    cluster.reconcile(key, crash_after=crash_after)
    cluster.settle()
    assert (cluster.status(key).failures, ranks(cluster, key)) == (1, [0, 2, 3])
    cluster.wait(5)
    cluster.reconcile(key, crash_after=crash_after)
    cluster.settle()
    cluster.run(key)
    assert (cluster.status(key).failures, ranks(cluster, key)) == (1, [0, 1, 2, 3])
    assert len(cluster.newest(key)) == 4
