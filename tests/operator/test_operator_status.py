"""What the status shows and when it is written."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cra_operator.api import CheckpointStatus, JobKey, JobStatus, Progress
from cra_operator.controller.observation import Observation, Pace, WorkerSample
from cra_operator.lifecycle.display import duration, percent
from cra_operator.runtime.statuses import Throttle, is_minor, merge_patch, status_patch
from tests.operator.operator_world import START, MiniCluster, make_job

json_values = st.recursive(
    st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=3),
    max_leaves=8,
)
json_objects = st.dictionaries(st.text(max_size=2), json_values, max_size=4)


def running() -> tuple[MiniCluster, JobKey]:
    cluster = MiniCluster()
    key = cluster.apply(make_job(minimum=2))
    cluster.run(key)
    return cluster, key


def seen(**fields: object) -> Observation:
    base: dict[str, object] = {
        "time": START,
        "run": 1,
        "progress": Progress(epoch=3, epochs=10, step=60, ratio=0.374, eta_seconds=200.0, loss=0.5),
        "workers": {
            "digits-1-0": WorkerSample(share=0.6, weight=0.5, performance=100.0),
            "digits-1-1": WorkerSample(share=0.4),
        },
        "utilization": 0.81,
        "checkpoint": CheckpointStatus(step=50, time=START),
        "pause_seconds": 0.31,
    }
    return Observation(**(base | fields))  # type: ignore[arg-type]


def test_measurements_reach_the_status_and_the_columns() -> None:
    cluster, key = running()
    cluster.observations[key] = seen()
    cluster.settle()
    status = cluster.status(key)
    assert status.display is not None
    assert status.display.model_dump() == {
        "phase": "Running",
        "gpus": "2/2-8",
        "progress": "37%",
        "eta": "3m20s",
        "utilization": "81%",
        "reward": None,
    }
    assert [worker.share for worker in status.workers] == [0.6, 0.4]
    assert status.workers[0].performance == 100.0
    assert status.last_checkpoint == CheckpointStatus(step=50, time=START)
    assert status.is_true("MetricsAvailable")
    assert status.pause_seconds == 0.31


def test_speeds_and_reward_reach_the_status_and_the_reward_its_column() -> None:
    cluster, key = running()
    pods = frozenset({"digits-1-0", "digits-1-1"})
    cluster.observations[key] = seen(
        batch_size=64, noise_scale=812.5, pace=Pace(pods=pods, step_seconds=0.25)
    )
    cluster.settle()
    status = cluster.status(key)
    assert (status.batch_size, status.noise_scale) == (64, 812.5)
    assert [(speed.gpus, speed.nodes, speed.gpu_type, speed.step_seconds) for speed in status.speeds] == [
        (2, 1, "A100", 0.25)
    ]
    # Never on one worker yet, so two are taken for twice one: 0.81 * (2 + 1).
    assert status.reward == pytest.approx(2.43)
    assert status.display is not None
    assert status.display.reward == "2.43"
    known = status.speeds
    cluster.observations[key] = seen(pace=None)
    cluster.settle()
    assert (cluster.status(key).speeds, cluster.status(key).reward) == (known, status.reward)


def test_what_a_gpu_of_its_type_computes_reaches_the_status() -> None:
    cluster, key = running()
    pods = frozenset({"digits-1-0", "digits-1-1"})
    workers = {pod: WorkerSample(capability=120.0) for pod in pods}
    cluster.observations[key] = seen(workers=workers, pace=Pace(pods=pods, step_seconds=0.25))
    cluster.settle()
    assert [(one.gpu_type, one.samples_per_second) for one in cluster.status(key).gpu_types] == [
        ("A100", 120.0)
    ]


def test_missing_metrics_keep_the_last_values_and_are_said() -> None:
    cluster, key = running()
    cluster.observations[key] = seen()
    cluster.settle()
    cluster.observations[key] = Observation(
        time=START, run=1, available=False, reason="NoSamples", message="nothing there"
    )
    cluster.settle()
    status = cluster.status(key)
    assert status.progress is not None
    assert status.progress.ratio == 0.374
    assert status.workers[0].share == 0.6
    assert status.condition("MetricsAvailable").reason == "NoSamples"  # type: ignore[union-attr]
    assert not status.is_true("MetricsAvailable")


def test_a_checkpoint_that_cannot_be_written_is_a_condition_until_one_can() -> None:
    cluster, key = running()
    for _ in range(2):
        cluster.observations[key] = seen(checkpoint_failing=True)
        cluster.settle()
    status = cluster.status(key)
    degraded = status.condition("Degraded")
    assert degraded is not None
    assert (status.phase, degraded.status, degraded.reason) == ("Running", "True", "CheckpointFailed")
    assert degraded.message == (
        "the last checkpoint could not be written, step 50 is the newest one; training goes on. "
        "Make room or give access: `kubectl logs digits-1-0` says what was refused"
    )
    assert [event.reason for event in cluster.events].count("CheckpointFailed") == 1
    cluster.observations[key] = Observation(time=START, run=1, available=False, reason="NoSamples")
    cluster.settle()
    assert cluster.status(key).is_true("Degraded"), "nobody knows better"
    cluster.observations[key] = seen()
    cluster.settle()
    assert cluster.status(key).condition("Degraded").reason == "AsExpected"  # type: ignore[union-attr]
    assert [event.reason for event in cluster.events].count("CheckpointWritten") == 1


def test_a_worker_that_is_slow_for_good_is_named_until_it_recovers() -> None:
    cluster, key = running()
    slow = {"digits-1-1": WorkerSample(share=0.2, straggler=True)}
    for _ in range(2):
        cluster.observations[key] = seen(workers=slow)
        cluster.settle()
    degraded = cluster.status(key).condition("Degraded")
    assert degraded is not None
    assert (degraded.status, degraded.reason) == ("True", "Straggler")
    assert degraded.message.startswith("slow for good: digits-1-1 on ")
    assert [event.reason for event in cluster.events].count("Straggler") == 1
    # What cannot be saved is worse.
    cluster.observations[key] = seen(checkpoint_failing=True)
    cluster.settle()
    cluster.observations[key] = seen()
    cluster.settle()
    assert cluster.status(key).condition("Degraded").reason == "AsExpected"  # type: ignore[union-attr]
    assert [event.reason for event in cluster.events].count("StragglerRecovered") == 1


def test_measurements_of_an_earlier_run_are_not_shown() -> None:
    cluster, key = running()
    cluster.observations[key] = seen(run=0)
    cluster.settle()
    assert cluster.status(key).progress is None


def test_a_condition_keeps_its_time_until_it_flips() -> None:
    cluster, key = running()
    since = cluster.status(key).condition("Running").last_transition_time  # type: ignore[union-attr]
    cluster.wait(100)
    cluster.edit(key, backoff_limit=7)
    cluster.settle()
    condition = cluster.status(key).condition("Running")
    assert condition is not None
    assert condition.last_transition_time == since


def test_overlong_messages_are_cut_to_what_the_api_takes() -> None:
    cluster, key = running()
    cluster.exit(cluster.newest(key)[0], 1, '{"error": {"type": "E", "message": "%s"}}' % ("x" * 9000))
    cluster.settle()
    status = cluster.status(key)
    assert len(status.message or "") <= 4096
    assert all(len(condition.message) <= 4096 for condition in status.conditions)
    assert len(status.result.error.message) <= 4096  # type: ignore[union-attr, arg-type]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (59.6, "60s"), (119, "119s"), (120, "2m"), (200, "3m20s"), (3599, "59m"), (7200, "120m"),
     (4 * 3600 + 300, "4h5m"), (20 * 3600 + 300, "20h"), (72 * 3600, "3d")],
)  # fmt: skip
def test_durations_read_like_kubectls(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("ratio", "text"), [(0, "0%"), (0.374, "37%"), (0.999, "99%"), (1, "100%"), (1.2, "100%")]
)
def test_only_what_is_complete_shows_as_complete(ratio: float, text: str) -> None:
    assert percent(ratio) == text


# --- writing ------------------------------------------------------------------------------------------------


def apply_patch(target: object, patch: object) -> object:
    """RFC 7386, as the API server does it."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = apply_patch(result.get(key), value)
    return result


@given(old=json_objects, new=json_objects)
def test_a_merge_patch_leads_from_the_old_to_the_new(old: dict[str, object], new: dict[str, object]) -> None:
    patch = merge_patch(old, new)
    assert apply_patch(old, patch) == new
    assert bool(patch) == (old != new)


def test_nothing_is_written_when_nothing_changed() -> None:
    cluster, key = running()
    job = cluster.jobs[key]
    assert status_patch(job, job.status) is None


def test_gpu_seconds_alone_are_no_reason_to_write() -> None:
    cluster, key = running()
    job = cluster.jobs[key]
    later = START + timedelta(seconds=99)
    more = job.status.model_copy(update={"gpu_seconds": 99.0, "gpu_seconds_time": later})
    assert status_patch(job, more) is None
    both = more.model_copy(update={"message": "news"})
    assert status_patch(job, both) == {
        "metadata": {"uid": "uid-digits"},
        "status": {"gpuSeconds": 99.0, "gpuSecondsTime": "2026-01-01T00:01:39Z", "message": "news"},
    }


def test_a_field_that_goes_is_removed() -> None:
    job = make_job().model_copy(update={"status": JobStatus(retry_after=START, queue_position=2)})
    patch = status_patch(job, JobStatus(queue_position=1))
    assert patch is not None
    assert patch["status"] == {"retryAfter": None, "queuePosition": 1}


def test_measurements_may_wait_but_transitions_may_not() -> None:
    cluster, key = running()
    before = cluster.status(key)
    cluster.observations[key] = seen()
    cluster.settle()
    first = cluster.status(key)
    assert not is_minor(before, first), "MetricsAvailable appeared"
    cluster.observations[key] = seen(progress=Progress(ratio=0.5), utilization=0.5)
    cluster.settle()
    measured = cluster.status(key)
    assert is_minor(first, measured)
    cluster.vanish(cluster.newest(key)[0])
    cluster.settle()
    assert not is_minor(measured, cluster.status(key))


def test_a_new_reason_behind_the_phase_may_not_wait() -> None:
    cluster = MiniCluster()
    key = cluster.apply(make_job())
    cluster.settle()
    cluster.schedule()
    before = cluster.status(key)
    cluster.stuck(cluster.newest(key)[0], "ErrImagePull", "x")
    cluster.settle()
    assert not is_minor(before, cluster.status(key))


def test_minor_writes_are_spaced_out_per_job() -> None:
    throttle = Throttle(10)
    mine, other = ("default", "a"), ("default", "b")
    assert throttle.wait(mine) == 0
    throttle.note(mine)
    assert 9 < throttle.wait(mine) <= 10
    assert throttle.wait(other) == 0
    throttle.forget(mine)
    assert throttle.wait(mine) == 0


def test_times_survive_the_wire() -> None:
    moment = START + timedelta(seconds=5, microseconds=7)
    status = JobStatus(start_time=moment)
    assert status.wire()["startTime"] == "2026-01-01T00:00:05Z"
    assert JobStatus.model_validate(status.wire()) == status
