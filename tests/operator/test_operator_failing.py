"""Why pods end and what follows: the cause is found, counted or not, and tried again ever more slowly.

The jobs here are not elastic: a pod that is lost takes the run with it.
"""

import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cra_operator.api import JobKey
from cra_operator.lifecycle.backoff import delay
from cra_operator.lifecycle.failures import SETTLE, Failure, examine
from cra_operator.lifecycle.report import parse
from cra_operator.view import PodView, is_live
from tests.operator.operator_world import START, MiniCluster, ended, make_job, make_node, make_pod

SCRIPT_ERROR = json.dumps(
    {
        "outcome": "failed",
        "error": {"type": "ValueError", "message": "bad label 7", "where": "train.py:12 in step", "rank": 1},
    }
)


def cause(*pods: PodView, missing: tuple[int, ...] = (), after: float = 0) -> Failure | None:
    found = examine(pods, missing=missing, now=START + timedelta(seconds=after))
    return found.failure if found is not None else None


def running(**spec: Any) -> tuple[MiniCluster, JobKey]:
    cluster = MiniCluster()
    key = cluster.apply(make_job(minimum=2, scaling={"elastic": False}, **spec))
    cluster.run(key)
    assert cluster.status(key).phase == "Running"
    return cluster, key


# --- finding the cause --------------------------------------------------------------------------------------


def test_healthy_pods_are_no_failure() -> None:
    assert examine([make_pod(0), make_pod(1)], missing=(), now=START) is None


def test_an_exception_is_told_with_rank_type_message_and_place() -> None:
    failure = cause(make_pod(0), ended(make_pod(1), 1, message=SCRIPT_ERROR))
    assert failure is not None
    assert failure.reason == "ScriptError"
    assert failure.message == "rank 1 (pod digits-1-1): ValueError: bad label 7 at train.py:12 in step"
    assert (failure.rank, failure.where, failure.counted) == (1, "train.py:12 in step", True)


def test_a_plain_scripts_traceback_is_told_by_its_last_line() -> None:
    log = 'Traceback (most recent call last):\n  File "x.py", line 1\nKeyError: 9\n\n'
    failure = cause(ended(make_pod(0), 1, message=log))
    assert failure is not None
    assert failure.message == "rank 0 (pod digits-1-0): exit code 1: KeyError: 9"


def test_a_dead_peer_is_blamed_on_who_died() -> None:
    echo = ended(make_pod(0), 75, at=START)
    script = ended(make_pod(1), 1, at=START + timedelta(seconds=1), message=SCRIPT_ERROR)
    failure = cause(echo, script, after=2)
    assert failure is not None
    assert (failure.reason, failure.rank) == ("ScriptError", 1)


def test_the_cause_may_come_after_its_echo() -> None:
    pods = [ended(make_pod(0), 75), make_pod(1)]
    found = examine(pods, missing=(), now=START)
    assert found is not None
    assert found.failure is None
    assert found.unclear_until == START + SETTLE
    late = cause(*pods, after=SETTLE.total_seconds())
    assert late is not None
    assert (late.reason, late.counted) == ("PeerLost", True)


def test_when_all_only_echo_nobody_waits() -> None:
    failure = cause(ended(make_pod(0), 75), ended(make_pod(1), 75))
    assert failure is not None
    assert failure.reason == "PeerLost"


def test_the_first_of_two_errors_is_the_cause() -> None:
    early = ended(make_pod(1), 3, at=START)
    late = ended(make_pod(0), 1, at=START + timedelta(seconds=1))
    failure = cause(late, early, after=2)
    assert failure is not None
    assert failure.rank == 1


def test_running_out_of_memory_is_told_apart() -> None:
    failure = cause(ended(make_pod(0), 137, reason="OOMKilled"))
    assert failure is not None
    assert (failure.reason, failure.counted) == ("OOMKilled", True)


def test_a_kill_from_outside_is_told_apart() -> None:
    failure = cause(ended(make_pod(0), 137, reason="Error"))
    assert failure is not None
    assert failure.reason == "Killed"


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"disruption": "PreemptionByScheduler"}, "Preempted"),
        ({"disruption": "DeletionByTaintManager"}, "NodeLost"),
        ({"disruption": "DeletionByPodGC"}, "NodeLost"),
        ({"disruption": "EvictionByEvictionAPI"}, "Evicted"),
        ({"phase": "Failed", "reason": "Evicted", "message": "low on disk"}, "Evicted"),
        ({"phase": "Failed", "reason": "UnexpectedAdmissionError"}, "NodeRefused"),
        ({"deleted": START, "deadline": START}, "PodDeleted"),
    ],
)
def test_what_the_cluster_did_is_not_the_jobs_fault(fields: dict[str, object], reason: str) -> None:
    failure = cause(make_pod(0), replace(make_pod(1), **fields))  # type: ignore[arg-type]
    assert failure is not None
    assert (failure.reason, failure.counted, failure.rank) == (reason, False, 1)


def test_a_sigterm_that_nobody_here_sent_is_not_the_jobs_fault() -> None:
    failure = cause(ended(make_pod(0), 143), make_pod(1))
    assert failure is not None
    assert (failure.reason, failure.counted) == ("PodTerminated", False)


def test_an_eviction_beats_the_errors_that_it_caused() -> None:
    error = ended(make_pod(0), 1, at=START + timedelta(seconds=1), message="RuntimeError: connection reset")
    evicted = replace(make_pod(1), disruption="EvictionByEvictionAPI", deleted=START, deadline=START)
    failure = cause(error, evicted, after=2)
    assert failure is not None
    assert failure.reason == "Evicted"


def test_an_error_long_before_an_eviction_is_the_cause() -> None:
    later = START + timedelta(minutes=5)
    evicted = replace(make_pod(1), disruption="EvictionByEvictionAPI", deleted=later, deadline=later)
    failure = cause(ended(make_pod(0), 1, at=START), evicted, after=300)
    assert failure is not None
    assert failure.reason == "ScriptError"


def test_a_pod_that_vanished_was_deleted_by_someone() -> None:
    failure = cause(make_pod(0), missing=(1,))
    assert failure is not None
    assert (failure.reason, failure.rank, failure.counted) == ("PodDeleted", 1, False)


def test_a_failed_init_container_is_named() -> None:
    from cra_operator.view import Exit

    end = Exit(container="fetch-data", code=2, message="no such bucket", finished=START)
    failure = cause(replace(make_pod(0), phase="Failed", exit=end))
    assert failure is not None
    assert failure.message == "rank 0 (pod digits-1-0, container fetch-data): exit code 2: no such bucket"


@given(st.text(max_size=300))
def test_any_last_words_can_be_read(text: str) -> None:
    parse(text)
    failure = cause(ended(make_pod(0), 1, message=text))
    assert failure is not None
    assert failure.reason == "ScriptError"


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    ["outcome", "progress", "metrics", "ranks", "rank", "error", "checkpoint", "step"]
                ),
                inner,
                max_size=4,
            )
        ),
        max_leaves=12,
    )
)
def test_any_json_as_last_words_can_be_read(value: object) -> None:
    report = parse(json.dumps(value))
    assert report is None or isinstance(value, dict)


# --- trying again -------------------------------------------------------------------------------------------


def test_a_script_error_is_tried_again_after_a_wait_at_the_next_generation() -> None:
    cluster, key = running()
    cluster.exit(cluster.newest(key)[1], 1, SCRIPT_ERROR)
    cluster.settle()
    status = cluster.status(key)
    assert status.phase == "Restarting"
    assert status.display is not None
    assert status.display.phase == "Restarting/ScriptError"
    assert (status.failures, status.restarts) == (1, 1)
    assert status.retry_after == cluster.now + timedelta(seconds=5)
    assert status.result is not None
    assert status.result.error is not None
    assert status.result.error.where == "train.py:12 in step"
    cluster.obey(key, code=75)
    cluster.settle()
    assert cluster.status(key).failures == 1, "the peer that followed is not counted again"
    assert cluster.newest(key)[0].generation == 1
    cluster.wait(5)
    cluster.run(key)
    status = cluster.status(key)
    assert (status.phase, status.generation) == ("Running", 2)
    assert not status.is_true("Degraded")
    assert {pod.generation for pod in cluster.pods_of(key)} == {2}


def test_after_backoff_limit_failures_the_job_fails_and_keeps_the_logs() -> None:
    cluster, key = running(backoffLimit=2)
    waits = []
    for _ in range(3):
        cluster.exit(cluster.newest(key)[1], 1, SCRIPT_ERROR)
        cluster.settle()
        cluster.obey(key, code=75)
        retry = cluster.status(key).retry_after
        if retry is not None:
            waits.append((retry - cluster.now).total_seconds())
            cluster.wait(waits[-1])
            cluster.run(key)
    status = cluster.status(key)
    assert waits == [5, 10]
    assert status.phase == "Failed"
    assert (status.failures, status.restarts) == (3, 2)
    failed = status.condition("Failed")
    assert failed is not None
    assert (failed.status, failed.reason) == ("True", "ScriptError")
    assert "bad label 7" in failed.message
    assert status.completion_time == cluster.now
    assert [pod.name for pod in cluster.pods_of(key)] == ["digits-3-1"], "the culprit's log is kept"


def test_no_retry_at_all_when_the_limit_is_zero() -> None:
    cluster, key = running(backoffLimit=0)
    cluster.exit(cluster.newest(key)[0], 2)
    cluster.settle()
    assert cluster.status(key).phase == "Failed"
    assert cluster.status(key).restarts in (None, 0)


def test_evictions_do_not_use_up_the_limit() -> None:
    cluster, key = running(backoffLimit=0)
    for count in range(1, 5):
        pod = cluster.newest(key)[0]
        cluster.change(
            pod, disruption="PreemptionByScheduler", deleted=cluster.now, deadline=cluster.now + SETTLE
        )
        cluster.settle()
        cluster.obey(key)
        status = cluster.status(key)
        assert (status.phase, status.restarts, status.failures) == ("Restarting", count, 0)
        assert status.retry_after is not None
        cluster.now = status.retry_after
        cluster.run(key)
    assert cluster.status(key).phase == "Running"


def test_no_gpus_are_kept_while_backing_off() -> None:
    cluster = MiniCluster(make_node(gpus=2))
    key = cluster.apply(make_job(minimum=2))
    cluster.run(key)
    other = cluster.apply(make_job("other", minimum=2))
    cluster.exit(cluster.newest(key)[0], 1)
    cluster.settle()
    assert cluster.status(other).phase == "Pending", "the survivor has not ended yet"
    cluster.obey(key, code=75)
    assert cluster.reconcile(key).holding is None
    cluster.settle()
    assert cluster.status(other).phase == "Starting"


def test_a_peer_loss_without_a_cause_is_looked_into_before_it_is_counted() -> None:
    cluster, key = running()
    cluster.exit(cluster.newest(key)[0], 75)
    cluster.settle()
    assert cluster.status(key).phase == "Running"
    assert cluster.status(key).message == "a worker lost a peer: looking for the cause"
    assert cluster.look_again[key] == cluster.now + SETTLE
    cluster.exit(cluster.newest(key)[1], 1, SCRIPT_ERROR)
    cluster.settle()
    assert cluster.status(key).display.phase == "Restarting/ScriptError"  # type: ignore[union-attr]


def test_a_deleted_pod_restarts_the_whole_generation() -> None:
    cluster, key = running()
    cluster.vanish(cluster.newest(key)[1])
    cluster.settle()
    assert cluster.status(key).display.phase == "Restarting/PodDeleted"  # type: ignore[union-attr]
    assert all(pod.deleting for pod in cluster.newest(key))


def test_a_dead_nodes_pod_is_not_waited_for_for_ever() -> None:
    cluster, key = running()
    cluster.nodes = {"gpu-0": make_node(ready=False), "gpu-1": make_node("gpu-1")}
    pod = cluster.newest(key)[0]
    grace = cluster.now + timedelta(seconds=60)
    for each in cluster.newest(key):
        cluster.change(each, disruption="DeletionByTaintManager", deleted=cluster.now, deadline=grace)
    cluster.settle()
    assert cluster.status(key).display.phase == "Restarting/NodeLost"  # type: ignore[union-attr]
    cluster.wait(80)
    cluster.settle()
    assert cluster.status(key).generation == 1, "it may still be computing"
    cluster.wait(20)
    assert not is_live(pod if pod.deleting else cluster.pods[pod.key], cluster.nodes, cluster.now)
    cluster.settle()
    assert cluster.status(key).generation == 2


def test_a_failure_is_counted_once_whatever_dies_with_the_operator() -> None:
    for crash_after in range(4):
        cluster, key = running()
        cluster.exit(cluster.newest(key)[1], 1, SCRIPT_ERROR)
        cluster.reconcile(key, crash_after=crash_after)
        cluster.settle()
        cluster.obey(key, code=75)
        assert cluster.status(key).failures == 1
        assert cluster.status(key).display.phase == "Restarting/ScriptError"  # type: ignore[union-attr]


def test_the_active_deadline_ends_the_job() -> None:
    cluster, key = running(activeDeadlineSeconds=100)
    cluster.wait(99)
    cluster.settle()
    assert cluster.status(key).phase == "Running"
    cluster.wait(1)
    cluster.settle()
    assert cluster.status(key).display.phase == "Failed/DeadlineExceeded"  # type: ignore[union-attr]
    cluster.obey(key)
    assert cluster.status(key).gpus == 0


@given(failures=st.integers(1, 100), infrastructure=st.integers(0, 100), ran=st.integers(0, 10_000))
def test_waits_double_up_to_a_cap(failures: int, infrastructure: int, ran: int) -> None:
    restarts = failures + infrastructure
    own = delay(counted=True, failures=failures, restarts=restarts, ran=timedelta(seconds=ran))
    assert own == min(timedelta(seconds=300), timedelta(seconds=5 * 2 ** min(failures - 1, 9)))
    theirs = delay(counted=False, failures=failures, restarts=restarts + 1, ran=timedelta(seconds=ran))
    assert timedelta(seconds=1) <= theirs <= timedelta(seconds=300)
    if ran >= 300:
        assert theirs == timedelta(seconds=1), "a long run shows that the cluster had recovered"
