"""Starting a generation: all pods at once, what holds it up is said at once, and a deadline ends it."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from cra_operator.actions import Apply, CreateClaim, CreatePod, Refusal
from cra_operator.lifecycle.notices import not_effective
from cra_operator.reconcile import reconcile
from tests.operator.operator_world import MiniCluster, make_job, make_node


def test_all_pods_are_created_together_with_service_and_claim() -> None:
    cluster = MiniCluster()
    key = cluster.apply(make_job(minimum=3))
    plan = cluster.reconcile(key)
    created = [a.manifest["metadata"]["name"] for a in plan.actions if isinstance(a, CreatePod)]
    assert created == ["digits-1-0", "digits-1-1", "digits-1-2"]
    assert [a.manifest["kind"] for a in plan.actions if isinstance(a, Apply)] == ["Service"]
    assert [a.manifest["kind"] for a in plan.actions if isinstance(a, CreateClaim)] == [
        "PersistentVolumeClaim"
    ]
    status = cluster.status(key)
    assert (status.phase, status.generation, status.desired_gpus) == ("Starting", 1, 3)
    assert status.is_true("Admitted")
    assert status.start_time == cluster.now
    assert status.selector == "cra.dev/job=digits"
    assert plan.holding is not None
    assert plan.holding.gpus == 3


def test_the_job_runs_when_all_workers_are_ready() -> None:
    cluster = MiniCluster()
    key = cluster.apply(make_job(minimum=2))
    cluster.settle()
    cluster.schedule()
    first, second = cluster.newest(key)
    cluster.start([first])
    cluster.settle()
    assert cluster.status(key).phase == "Starting"
    assert cluster.status(key).message == "1 of 2 workers ready"
    cluster.wait(5)
    cluster.start([second])
    cluster.settle()
    status = cluster.status(key)
    assert status.phase == "Running"
    assert status.is_true("Running")
    assert status.running_time == cluster.now
    assert [worker.node for worker in status.workers] == ["gpu-0", "gpu-0"]
    assert status.workers[0].gpu_type == "A100"
    assert [event.reason for event in cluster.events] == ["Started", "Running"]


def test_a_pinned_size_is_the_size() -> None:
    cluster = MiniCluster()
    key = cluster.apply(make_job(scaling={"gpus": 4, "gpusPerWorker": 2}))
    cluster.settle()
    assert [pod.gpus for pod in cluster.newest(key)] == [2, 2]


def test_pods_of_several_gpus_are_gathered_whole() -> None:
    cluster = MiniCluster()
    key = cluster.apply(make_job(scaling={"minGPUs": 3, "gpusPerWorker": "2-4"}))
    cluster.settle()
    assert [pod.gpus for pod in cluster.newest(key)] == [2, 2], "the minimum is rounded up to whole workers"


@pytest.mark.parametrize(
    "reason",
    [
        "ErrImagePull",
        "ImagePullBackOff",
        "InvalidImageName",
        "CreateContainerConfigError",
        "ErrImageNeverPull",
    ],
)
def test_a_wrong_image_is_visible_at_once_and_fails_at_the_startup_deadline(reason: str) -> None:
    cluster = MiniCluster()
    key = cluster.apply(make_job(minimum=2, startupDeadlineSeconds=60))
    cluster.settle()
    cluster.schedule()
    cluster.stuck(cluster.newest(key)[1], reason, 'pull "nope:1": not found')
    cluster.settle()
    status = cluster.status(key)
    shown = "ErrImagePull" if reason == "ImagePullBackOff" else reason
    assert status.display is not None
    assert status.display.phase == f"Starting/{shown}"
    assert status.message == f'rank 1 (pod digits-1-1): {shown}: pull "nope:1": not found'
    degraded = status.condition("Degraded")
    assert degraded is not None
    assert (degraded.status, degraded.reason) == ("True", shown)
    warnings = [event for event in cluster.events if event.type == "Warning"]
    assert [event.reason for event in warnings] == [shown], "one event, however often it is looked at"
    assert cluster.look_again[key] is not None
    cluster.wait(60)
    cluster.settle()
    cluster.obey(key)
    status = cluster.status(key)
    assert status.phase == "Failed"
    assert status.display is not None
    assert status.display.phase == "Failed/StartupDeadlineExceeded"
    assert shown in (status.message or "")
    assert status.result is not None
    assert status.result.error is not None
    assert status.result.error.rank == 1
    assert cluster.pods_of(key) == (), "no pod holds a GPU any more"


def test_the_kubelets_flip_between_pull_errors_is_one_state() -> None:
    cluster = MiniCluster()
    key = cluster.apply(make_job())
    cluster.settle()
    cluster.schedule()
    for reason in ("ErrImagePull", "ImagePullBackOff", "ErrImagePull"):
        cluster.stuck(cluster.newest(key)[0], reason, "not found")
        cluster.settle()
    assert [event.reason for event in cluster.events if event.type == "Warning"] == ["ErrImagePull"]


def test_an_obstacle_that_goes_away_is_forgotten() -> None:
    cluster = MiniCluster()
    key = cluster.apply(make_job())
    cluster.settle()
    cluster.schedule()
    cluster.stuck(cluster.newest(key)[0], "ErrImagePull", "registry is down")
    cluster.settle()
    cluster.start(cluster.newest(key))
    cluster.settle()
    assert cluster.status(key).phase == "Running"
    assert not cluster.status(key).is_true("Degraded")


def test_pods_that_find_no_node_are_taken_back_and_tried_again() -> None:
    cluster = MiniCluster()
    key = cluster.apply(make_job(minimum=2, startupDeadlineSeconds=30, backoffLimit=1))
    cluster.settle()
    for pod in cluster.newest(key):
        cluster.change(pod, unschedulable="0/3 nodes are available: 3 node(s) didn't match node affinity")
    cluster.settle()
    assert not cluster.status(key).is_true("Degraded"), "the scheduler says so of any pod at first"
    cluster.wait(10)
    cluster.settle()
    assert cluster.status(key).display.phase == "Starting/Unschedulable"  # type: ignore[union-attr]
    cluster.wait(20)
    cluster.settle()
    status = cluster.status(key)
    assert status.phase == "Restarting"
    assert status.display.phase == "Restarting/StartupDeadlineExceeded"  # type: ignore[union-attr]
    assert status.failures == 1
    assert cluster.pods_of(key) == ()
    cluster.wait(5)
    cluster.settle()
    assert cluster.status(key).generation == 2
    for pod in cluster.newest(key):
        cluster.change(pod, unschedulable="no")
    cluster.wait(30)
    cluster.settle()
    assert cluster.status(key).phase == "Failed"


def test_a_partly_scheduled_gang_gives_its_gpus_back() -> None:
    cluster = MiniCluster(make_node(gpus=2))
    key = cluster.apply(make_job(minimum=2, startupDeadlineSeconds=30))
    cluster.settle()
    first, second = cluster.newest(key)
    cluster.change(first, node="gpu-0", scheduled=cluster.now)
    cluster.change(second, unschedulable="somebody else was faster")
    cluster.wait(30)
    cluster.settle()
    cluster.obey(key)
    assert cluster.status(key).phase == "Restarting"
    assert cluster.status(key).gpus == 0


def test_an_operator_that_died_while_creating_pods_completes_the_generation() -> None:
    cluster = MiniCluster()
    key = cluster.apply(make_job(minimum=3))
    cluster.reconcile(key, crash_after=1)
    assert len(cluster.pods_of(key)) == 1
    assert cluster.status(key).phase is None
    cluster.settle()
    assert [pod.name for pod in cluster.newest(key)] == ["digits-1-0", "digits-1-1", "digits-1-2"]
    assert cluster.status(key).generation == 1
    assert cluster.status(key).phase == "Starting"


def test_an_operator_that_died_before_writing_the_status_still_makes_service_and_claim() -> None:
    cluster = MiniCluster()
    key = cluster.apply(make_job(minimum=2))
    cluster.reconcile(key, crash_after=2)
    plan = cluster.reconcile(key)
    assert [type(action) for action in plan.actions if isinstance(action, Apply | CreateClaim)] == [
        CreateClaim,
        Apply,
    ]


def test_pods_of_an_earlier_job_of_the_same_name_are_waited_for() -> None:
    cluster = MiniCluster()
    key = cluster.apply(make_job())
    plan = reconcile(replace(cluster.world(key), leftovers=2, verdict=None))
    assert not [action for action in plan.actions if isinstance(action, CreatePod)]
    assert plan.status.message == "waiting for 2 earlier pods to end"
    assert plan.status.phase == "Pending"


def test_an_invalid_pod_fails_the_job_with_the_api_servers_words() -> None:
    cluster = MiniCluster()
    key = cluster.apply(make_job())
    refusal = Refusal(
        kind="Pod", generation=1, status=422, message='Pod "digits-1-0" is invalid: spec.volumes[0]'
    )
    plan = reconcile(cluster.world(key, refusal))
    assert plan.status.phase == "Failed"
    assert plan.status.display is not None
    assert plan.status.display.phase == "Failed/PodInvalid"
    assert "spec.volumes[0]" in (plan.status.message or "")


def test_a_forbidden_pod_is_tried_again_without_counting() -> None:
    cluster = MiniCluster()
    key = cluster.apply(make_job(backoffLimit=0))
    refusal = Refusal(kind="Pod", generation=1, status=403, message="exceeded quota: gpus")
    plan = reconcile(cluster.world(key, refusal))
    assert plan.status.phase == "Restarting"
    assert plan.status.failures == 0
    assert plan.status.retry_after is not None
    assert "exceeded quota" in (plan.status.message or "")
    assert plan.holding is None


def test_a_name_that_somebody_else_has_is_told_and_tried_again() -> None:
    cluster = MiniCluster()
    key = cluster.apply(make_job())
    text = "Service digits exists and is not this job's: delete it or rename the job"
    refusal = Refusal(kind="Service", generation=1, status=409, message=text)
    status = reconcile(cluster.world(key, refusal)).status
    assert status.display is not None
    assert status.display.phase == "Restarting/NameTaken"
    assert status.message is not None
    assert status.message.startswith(text)
    assert status.failures == 0


def test_an_earlier_jobs_claim_is_waited_for_without_using_up_anything() -> None:
    cluster = MiniCluster()
    key = cluster.apply(make_job())
    text = "PersistentVolumeClaim digits-checkpoint of an earlier job is about to go"
    refusal = Refusal(kind="PersistentVolumeClaim", generation=1, status=409, message=text, passing=True)
    plan = reconcile(cluster.world(key, refusal))
    assert (plan.status.phase, plan.status.message) == ("Pending", text)
    assert (plan.status.generation, plan.status.restarts) == (0, 0)
    assert not [action for action in plan.actions if isinstance(action, CreatePod)]
    assert plan.holding is None
    assert plan.look_again == cluster.now + timedelta(seconds=1)


def test_a_job_of_another_manager_is_left_alone() -> None:
    cluster = MiniCluster()
    key = cluster.apply(make_job(managedBy="kueue.x-k8s.io/multikueue"))
    plan = cluster.reconcile(key)
    assert plan.actions == ()
    assert cluster.status(key).phase is None


def test_settings_without_effect_are_announced_once_per_edit() -> None:
    cluster = MiniCluster()
    key = cluster.apply(make_job(scaling={"gpusPerWorker": "1-4"}))
    cluster.settle()
    cluster.run(key)
    told = [event for event in cluster.events if event.reason == "NotEffective"]
    assert len(told) == 1
    assert "scaling.gpusPerWorker" in told[0].message
    admitted = cluster.status(key).condition("Admitted")
    assert admitted is not None
    assert "scaling.gpusPerWorker" in admitted.message
    cluster.edit(key, backoff_limit=5)
    cluster.settle()
    assert len([event for event in cluster.events if event.reason == "NotEffective"]) == 2


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"scaling": {"gpusPerWorker": "1-4"}}, "scaling.gpusPerWorker"),
    ],
)
def test_every_setting_without_effect_is_named(spec: dict[str, Any], field: str) -> None:
    (phrase,) = not_effective(make_job(**spec).spec)
    assert phrase.startswith((field, f"the range of {field}"))


def test_settings_with_effect_are_announced_nothing() -> None:
    cluster = MiniCluster()
    training = {
        "minBatchSize": 32,
        "maxBatchSize": 128,
        "learningRateRule": "adascale",
        "tracking": {"wandb": {"project": "p", "secretName": "s"}},
    }
    allocator = {"layers": {"computeBudget": 0.5}, "tasks": {"strategy": "adaptive"}}
    scaling = {"policy": "goodput", "mode": "Recommend", "cooldownSeconds": 5}
    spec: dict[str, Any] = {
        "training": training,
        "scaling": scaling,
        "allocator": allocator,
        "objective": {"alpha": 2},
    }
    key = cluster.apply(make_job(queue="team-a", **spec))
    cluster.run(key)
    assert not [event for event in cluster.events if event.reason == "NotEffective"]
