"""Changing the size of a script that is not elastic: by way of a checkpoint, only to a size that fits, and
nobody takes the GPUs meanwhile.
"""

from typing import Any

from cra_operator.api import JobKey
from tests.operator.operator_world import MiniCluster, make_job, make_node


def running(gpus: int = 8, **spec: Any) -> tuple[MiniCluster, JobKey]:
    cluster = MiniCluster(make_node(gpus=gpus))
    key = cluster.apply(make_job(minimum=1, scaling={"gpus": 2, "elastic": False}, **spec))
    cluster.run(key)
    return cluster, key


def test_scaling_leaves_with_a_checkpoint_and_starts_at_the_new_size() -> None:
    cluster, key = running()
    cluster.edit(key, gpus=4)
    cluster.settle()
    status = cluster.status(key)
    assert status.phase == "Rescaling"
    assert status.is_true("Rescaling")
    assert status.condition("Rescaling").message == (  # type: ignore[union-attr]
        "from 2 GPUs to 4 GPUs by way of a checkpoint and a restart (the script is not elastic)"
    )
    assert all(pod.deleting for pod in cluster.newest(key))
    cluster.obey(key)
    assert [pod.name for pod in cluster.newest(key)] == [f"digits-2-{rank}" for rank in range(4)]
    cluster.run(key)
    status = cluster.status(key)
    assert (status.phase, status.rescales, status.generation, status.gpus) == ("Running", 1, 2, 4)
    assert status.condition("Rescaling").reason == "Rescaled"  # type: ignore[union-attr]
    assert [event.message for event in cluster.events if event.reason == "Rescaled"] == [
        "now 4 GPUs, by way of a checkpoint and a restart"
    ]
    assert status.failures in (None, 0), "leaving when told to is no failure"
    assert status.restarts in (None, 0)
    decision = status.last_decision
    assert decision is not None
    assert (decision.from_, decision.to, decision.reason) == (2, 4, "SpecChanged")
    assert status.decisions == [decision]


def test_shrinking_works_the_same_way() -> None:
    cluster, key = running()
    cluster.edit(key, gpus=1)
    cluster.settle()
    cluster.obey(key)
    cluster.run(key)
    assert [pod.name for pod in cluster.newest(key)] == ["digits-2-0"]
    assert cluster.status(key).gpus == 1


def test_a_size_that_does_not_fit_changes_nothing_and_is_said() -> None:
    cluster, key = running(gpus=3)
    cluster.edit(key, gpus=4)
    cluster.settle()
    status = cluster.status(key)
    assert status.phase == "Running"
    assert not any(pod.deleting for pod in cluster.newest(key))
    assert status.desired_gpus == 4
    rescaling = status.condition("Rescaling")
    assert rescaling is not None
    assert (rescaling.status, rescaling.reason) == ("False", "WaitingForGPUs")
    assert rescaling.message == (
        "keeps 2 GPUs: waiting for 4 GPUs: 3 of 3 free, and the nodes that it may use have no more"
    )
    assert status.message is not None
    assert status.message.startswith("training on 2 GPUs; waiting for 4 GPUs")
    assert [event.reason for event in cluster.events].count("RescaleWaiting") == 1


def test_it_grows_as_soon_as_there_is_room() -> None:
    cluster, key = running(gpus=4)
    other = cluster.apply(make_job("other", minimum=2))
    cluster.run(other)
    cluster.edit(key, gpus=4)
    cluster.settle()
    assert cluster.status(key).phase == "Running"
    for pod in cluster.newest(other):
        cluster.exit(pod, 0)
    cluster.settle()
    assert cluster.status(key).phase == "Rescaling"


def test_a_wish_that_is_withdrawn_is_forgotten() -> None:
    cluster, key = running(gpus=3)
    cluster.edit(key, gpus=4)
    cluster.settle()
    cluster.edit(key, gpus=2)
    cluster.settle()
    status = cluster.status(key)
    assert status.condition("Rescaling").reason == "NotWanted"  # type: ignore[union-attr]
    assert status.message == "training on 2 GPUs"
    assert status.desired_gpus == 2


def test_releasing_the_pin_restarts_nothing() -> None:
    cluster, key = running()
    cluster.edit(key, gpus=None)
    cluster.settle()
    assert cluster.status(key).phase == "Running"
    assert len(cluster.newest(key)) == 2


def test_its_gpus_are_kept_for_it_while_it_changes() -> None:
    cluster, key = running(gpus=4)
    cluster.edit(key, gpus=4)
    plan = cluster.reconcile(key)
    assert plan.holding is not None
    assert plan.holding.gpus == 4
    plan = cluster.reconcile(key)
    assert plan.holding is not None
    assert plan.holding.gpus == 4


def test_another_edit_on_the_way_is_done_next() -> None:
    cluster, key = running()
    cluster.edit(key, gpus=4)
    cluster.settle()
    cluster.edit(key, gpus=3)
    cluster.settle()
    cluster.obey(key)
    assert len(cluster.newest(key)) in (3, 4)
    cluster.run(key)
    cluster.obey(key)
    cluster.run(key)
    assert len(cluster.newest(key)) == 3
    assert cluster.status(key).phase == "Running"


def test_a_job_that_finishes_on_the_way_has_finished() -> None:
    cluster, key = running()
    cluster.edit(key, gpus=4)
    cluster.settle()
    for pod in cluster.newest(key):
        cluster.exit(pod, 0)
    cluster.settle()
    assert cluster.status(key).phase == "Succeeded"
    assert not cluster.status(key).is_true("Rescaling")


def test_an_operator_that_dies_on_the_way_goes_on() -> None:
    for crash_after in range(4):
        cluster, key = running()
        cluster.edit(key, gpus=4)
        cluster.reconcile(key, crash_after=crash_after)
        cluster.settle()
        cluster.obey(key)
        cluster.run(key)
        status = cluster.status(key)
        assert (status.phase, status.gpus, status.failures or 0) == ("Running", 4, 0)
        assert (status.rescales, status.restarts or 0) == (1, 0)


def test_changing_other_fields_does_not_restart_anything() -> None:
    cluster, key = running()
    cluster.edit(key, backoff_limit=9)
    cluster.settle()
    assert cluster.status(key).phase == "Running"
    assert cluster.status(key).observed_generation == 2
    assert cluster.status(key).generation == 1
