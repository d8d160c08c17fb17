"""Suspending: pods leave with a checkpoint, nothing is held, the clock stands still, and it goes on from
there.
"""

from datetime import timedelta
from typing import Any

from cra_operator.api import JobKey
from tests.operator.operator_world import MiniCluster, make_job, make_node


def running(**spec: Any) -> tuple[MiniCluster, JobKey]:
    cluster = MiniCluster(make_node(gpus=2))
    key = cluster.apply(make_job(minimum=2, **spec))
    cluster.run(key)
    return cluster, key


def test_pods_leave_and_nothing_is_held() -> None:
    cluster, key = running()
    cluster.edit(key, suspend=True)
    cluster.settle()
    status = cluster.status(key)
    assert status.phase == "Suspending"
    assert not status.is_true("Suspended")
    assert not status.is_true("Admitted")
    cluster.obey(key)
    status = cluster.status(key)
    assert (status.phase, status.gpus, status.workers) == ("Suspended", 0, [])
    assert status.is_true("Suspended")
    assert cluster.reconcile(key).holding is None
    assert status.failures in (None, 0)
    other = cluster.apply(make_job("other", minimum=2))
    cluster.settle()
    assert cluster.status(other).phase == "Starting"


def test_it_resumes_with_the_next_generation() -> None:
    cluster, key = running()
    cluster.edit(key, suspend=True)
    cluster.settle()
    cluster.obey(key)
    cluster.edit(key, suspend=False)
    cluster.run(key)
    status = cluster.status(key)
    assert (status.phase, status.generation) == ("Running", 2)
    assert status.condition("Suspended").reason == "Resumed"  # type: ignore[union-attr]
    reasons = [event.reason for event in cluster.events]
    assert reasons == ["Started", "Running", "Suspending", "Suspended", "Resumed", "Started", "Running"]


def test_a_job_can_be_created_suspended() -> None:
    cluster = MiniCluster()
    key = cluster.apply(make_job(suspend=True))
    cluster.settle()
    assert cluster.status(key).phase == "Suspended"
    assert cluster.pods_of(key) == ()


def test_a_resumed_job_that_does_not_fit_waits_in_line() -> None:
    cluster, key = running()
    cluster.edit(key, suspend=True)
    cluster.settle()
    cluster.obey(key)
    other = cluster.apply(make_job("other", minimum=2))
    cluster.run(other)
    cluster.edit(key, suspend=False)
    cluster.settle()
    status = cluster.status(key)
    assert status.phase == "Pending"
    assert not status.is_true("Suspended")


def test_time_at_rest_does_not_count_against_the_deadline() -> None:
    cluster, key = running(activeDeadlineSeconds=100)
    cluster.wait(60)
    cluster.edit(key, suspend=True)
    cluster.settle()
    cluster.obey(key)
    cluster.wait(1000)
    cluster.settle()
    assert cluster.status(key).phase == "Suspended"
    cluster.edit(key, suspend=False)
    cluster.run(key)
    cluster.wait(39)
    cluster.settle()
    assert cluster.status(key).phase == "Running"
    assert cluster.look_again[key] == cluster.now + timedelta(seconds=1)
    cluster.wait(1)
    cluster.settle()
    assert cluster.status(key).phase == "Failed"


def test_suspended_and_released_in_one_go_it_comes_back() -> None:
    cluster, key = running()
    cluster.edit(key, suspend=True)
    cluster.settle()
    cluster.edit(key, suspend=False)
    cluster.settle()
    assert cluster.status(key).phase == "Suspending", "the pods were told to leave already"
    cluster.obey(key)
    cluster.run(key)
    assert (cluster.status(key).phase, cluster.status(key).generation) == ("Running", 2)


def test_suspending_ends_a_wait_between_tries() -> None:
    cluster, key = running()
    cluster.exit(cluster.newest(key)[0], 1)
    cluster.settle()
    cluster.edit(key, suspend=True)
    cluster.settle()
    cluster.obey(key, code=75)
    status = cluster.status(key)
    assert (status.phase, status.retry_after) == ("Suspended", None)
    assert not status.is_true("Degraded")


def test_a_job_that_finishes_while_it_leaves_has_finished() -> None:
    cluster, key = running()
    cluster.edit(key, suspend=True)
    cluster.settle()
    for pod in cluster.newest(key):
        cluster.exit(pod, 0)
    cluster.settle()
    assert cluster.status(key).phase == "Succeeded"


def test_suspending_a_job_in_the_middle_of_a_rescale_settles_it() -> None:
    cluster, key = running()
    cluster.edit(key, gpus=1)
    cluster.edit(key, gpus=None, suspend=True)
    cluster.settle()
    cluster.obey(key)
    assert cluster.status(key).phase == "Suspended"
    assert not cluster.status(key).is_true("Rescaling")
