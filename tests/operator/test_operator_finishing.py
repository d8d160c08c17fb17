"""The end of a job: result, kept pods, time to live, GPU-seconds."""

import json
from datetime import timedelta
from typing import Any

import pytest

from cra_operator.actions import DeleteJob
from cra_operator.api import JobKey
from tests.operator.operator_world import MiniCluster, make_job

RESULT = {
    "outcome": "succeeded",
    "progress": {"epoch": 10, "epochs": 10, "step": 230, "ratio": 1.0, "samples": 14370, "loss": 0.05},
    "metrics": {"accuracy": 0.9733},
    "samplesPerSecond": 812.5,
    "seconds": 17.7,
    "ranks": [
        {"rank": 0, "share": 0.6, "weight": 0.55, "performance": 500.0, "samplesPerSecond": 490.0},
        {"rank": 1, "share": 0.4, "weight": 0.45, "performance": 330.0, "samplesPerSecond": 322.5},
    ],
    "classes": [
        {"name": "zero", "precision": 0.9, "recall": 0.8, "f1": 0.85, "support": 20},
        {"name": "n" * 300, "precision": 1.0, "recall": 1.0, "f1": 1.0, "support": 5},
        "not a class",
    ],
    "checkpoint": {"step": 230, "path": "/cra/checkpoint/step-230"},
}


def running(**spec: Any) -> tuple[MiniCluster, JobKey]:
    cluster = MiniCluster()
    key = cluster.apply(make_job(minimum=2, **spec))
    cluster.run(key)
    return cluster, key


def test_the_result_is_rank_zeros_last_word() -> None:
    cluster, key = running()
    cluster.wait(20)
    first, second = cluster.newest(key)
    cluster.exit(first, 0, json.dumps(RESULT))
    cluster.settle()
    assert cluster.status(key).phase == "Running", "rank 1 is not done"
    cluster.exit(second, 0)
    cluster.settle()
    status = cluster.status(key)
    assert status.phase == "Succeeded"
    assert status.is_true("Succeeded")
    assert status.completion_time == cluster.now
    assert status.message == "finished on 2 GPUs: accuracy 0.9733"
    result = status.result
    assert result is not None
    assert result.metrics == {"accuracy": 0.9733}
    assert (result.steps, result.samples, result.samples_per_second) == (230, 14370, 812.5)
    assert result.checkpoint == "/cra/checkpoint/step-230"
    assert result.ranks is not None
    assert [rank.share for rank in result.ranks] == [0.6, 0.4]
    assert result.classes is not None
    assert [(one.name[:4], len(one.name), one.f1) for one in result.classes] == [
        ("zero", 4, 0.85),
        ("nnnn", 256, 1),
    ]
    assert status.display is not None
    assert (status.display.phase, status.display.progress, status.display.eta) == ("Succeeded", "100%", None)
    assert status.last_checkpoint is not None
    assert status.last_checkpoint.step == 230


def test_a_finished_training_that_could_not_be_saved_says_so() -> None:
    cluster, key = running()
    first, second = cluster.newest(key)
    refused = {"step": 200, "path": "s3://b/step-200", "failure": "checkpoint of step 230 in s3://b: denied"}
    cluster.exit(first, 0, json.dumps({**RESULT, "checkpoint": refused}))
    cluster.exit(second, 0)
    cluster.settle()
    status = cluster.status(key)
    assert status.phase == "Succeeded"
    degraded = status.condition("Degraded")
    assert degraded is not None
    assert (degraded.status, degraded.reason) == ("True", "CheckpointFailed")
    assert degraded.message == "the end of the training is not saved: " + refused["failure"]  # type: ignore[operator]


def test_a_plain_script_succeeds_without_last_words() -> None:
    cluster, key = running()
    for pod in cluster.newest(key):
        cluster.exit(pod, 0)
    cluster.settle()
    assert cluster.status(key).phase == "Succeeded"
    assert cluster.status(key).message == "finished on 2 GPUs"


def test_a_job_that_is_over_before_it_was_seen_running_has_succeeded() -> None:
    cluster = MiniCluster()
    key = cluster.apply(make_job(minimum=2))
    cluster.settle()
    cluster.schedule()
    for pod in cluster.newest(key):
        cluster.exit(pod, 0)
    cluster.settle()
    assert cluster.status(key).phase == "Succeeded"


@pytest.mark.parametrize("code", [75, 143])
def test_ranks_that_are_left_alone_by_a_finished_rank_zero_do_not_undo_its_success(code: int) -> None:
    cluster, key = running()
    first, second = cluster.newest(key)
    cluster.exit(first, 0, json.dumps(RESULT))
    cluster.exit(second, code)
    cluster.settle()
    assert cluster.status(key).phase == "Succeeded"


def test_an_error_of_another_rank_does() -> None:
    cluster, key = running(scaling={"elastic": False})
    first, second = cluster.newest(key)
    cluster.exit(first, 0, json.dumps(RESULT))
    cluster.exit(second, 1, "AssertionError: shards differ")
    cluster.settle()
    assert cluster.status(key).phase == "Restarting"


def test_an_elastic_run_goes_on_without_the_rank_and_succeeds() -> None:
    cluster, key = running()
    first, second = cluster.newest(key)
    cluster.exit(second, 1, "AssertionError: out of luck")
    cluster.exit(first, 0, json.dumps(RESULT))
    cluster.settle()
    assert cluster.status(key).phase == "Succeeded"


def test_finished_pods_are_kept_for_their_logs_and_no_gpu_is_held() -> None:
    cluster, key = running()
    for pod in cluster.newest(key):
        cluster.exit(pod, 0)
    cluster.settle()
    cluster.wait(100_000)
    cluster.settle()
    assert len(cluster.pods_of(key)) == 2
    assert cluster.status(key).gpus == 0
    assert cluster.reconcile(key).holding is None


def test_the_job_is_deleted_when_its_time_to_live_is_over() -> None:
    cluster, key = running(ttlSecondsAfterFinished=60)
    for pod in cluster.newest(key):
        cluster.exit(pod, 0)
    cluster.settle()
    assert cluster.look_again[key] == cluster.now + timedelta(seconds=60)
    cluster.wait(59)
    assert DeleteJob() not in cluster.reconcile(key).actions
    cluster.wait(1)
    assert DeleteJob() in cluster.reconcile(key).actions
    assert key not in cluster.jobs


def test_a_finished_job_stays_as_it_is() -> None:
    cluster, key = running()
    for pod in cluster.newest(key):
        cluster.exit(pod, 0)
    cluster.settle()
    before = cluster.status(key)
    for pod in cluster.newest(key):
        cluster.vanish(pod)
    cluster.edit(key, gpus=4, suspend=True)
    cluster.settle()
    after = cluster.status(key)
    assert after.phase == "Succeeded"
    assert after.result == before.result
    assert cluster.pods_of(key) == ()


def test_a_job_that_is_being_deleted_is_left_to_the_garbage_collector() -> None:
    cluster, key = running()
    job = cluster.jobs[key]
    meta = job.metadata.model_copy(update={"deletion_timestamp": cluster.now})
    cluster.jobs[key] = job.model_copy(update={"metadata": meta})
    cluster.vanish(cluster.newest(key)[0])
    assert cluster.reconcile(key).actions == ()


def test_gpu_seconds_are_counted_over_generations_and_restarts_of_the_operator() -> None:
    cluster, key = running()
    cluster.wait(10)
    cluster.edit(key, suspend=True)
    cluster.settle()
    cluster.wait(2)
    cluster.obey(key)
    cluster.wait(1000)
    cluster.edit(key, suspend=False)
    cluster.run(key)
    assert cluster.status(key).gpu_seconds == 24.0
    cluster.wait(5)
    for pod in cluster.newest(key):
        cluster.exit(pod, 0)
    cluster.wait(50)
    cluster.settle()
    assert cluster.status(key).gpu_seconds == 34.0
