"""The caches: they stay true across gaps in the watch and never lag behind the operator's own writes."""

import json
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cra_operator.api import JobKey
from cra_operator.kube.reflector import Reflector
from cra_operator.runtime.cluster import read_node, read_pod, read_priority, read_quota
from cra_operator.runtime.jobs import JobStore
from cra_operator.view import Taint, holds_gpus


@dataclass(frozen=True)
class Thing:
    name: str
    resource_version: int
    kept: bool = True


class Heard:
    def __init__(self) -> None:
        self.changes: list[tuple[Thing | None, Thing | None]] = []

    def __call__(self, old: Thing | None, new: Thing | None) -> None:
        self.changes.append((old, new))


@pytest.fixture
async def heard() -> Heard:
    return Heard()


@pytest.fixture
async def cache(heard: Heard) -> Reflector[str, Thing]:
    return make_cache(heard)


def make_cache(heard: Heard) -> Reflector[str, Thing]:
    return Reflector(
        None,  # type: ignore[arg-type]  # nothing is requested in these tests
        "/things",
        decode=lambda raw: Thing(**json.loads(raw)),
        key=lambda thing: thing.name,
        keep=lambda thing: thing.kept,
        on_change=heard,
    )


async def test_an_object_that_vanished_during_a_gap_is_reported(
    cache: Reflector[str, Thing], heard: Heard
) -> None:
    ghost, other = Thing("ghost", 5), Thing("other", 6)
    cache.adopt({"ghost": ghost, "other": other}, 7)
    cache.adopt({"other": other}, 20)
    assert heard.changes[-1] == (ghost, None)
    assert list(cache.items) == ["other"]


async def test_what_was_created_while_the_list_was_made_stays(
    cache: Reflector[str, Thing], heard: Heard
) -> None:
    cache.adopt({}, 7)
    cache.learn(Thing("mine", 9))
    cache.adopt({}, 8)
    assert list(cache.items) == ["mine"]


async def test_own_writes_are_seen_at_once_and_older_events_change_nothing(
    cache: Reflector[str, Thing], heard: Heard
) -> None:
    cache.learn(Thing("a", 9))
    cache.hear("MODIFIED", Thing("a", 8))
    assert cache.items["a"].resource_version == 9
    assert len(heard.changes) == 1


async def test_an_answer_that_comes_after_the_objects_end_brings_no_ghost(
    cache: Reflector[str, Thing], heard: Heard
) -> None:
    cache.hear("ADDED", Thing("a", 5))
    cache.hear("DELETED", Thing("a", 9))
    cache.learn(Thing("a", 5))
    assert cache.items == {}


async def test_objects_that_are_not_of_interest_are_left_out(
    cache: Reflector[str, Thing], heard: Heard
) -> None:
    cache.hear("ADDED", Thing("a", 1, kept=False))
    assert heard.changes == []
    cache.hear("ADDED", Thing("a", 2))
    cache.hear("MODIFIED", Thing("a", 3, kept=False))
    assert heard.changes[-1] == (Thing("a", 2), None)


# --- any history, seen through a watch with gaps ------------------------------------------------------------

operations = st.lists(
    st.tuples(
        st.sampled_from(["write", "delete", "own write", "gap", "relist"]), st.sampled_from(["a", "b", "c"])
    ),
    max_size=30,
)


@given(operations)
def test_after_a_list_the_copy_equals_the_truth(history: list[tuple[str, str]]) -> None:
    heard = Heard()

    import asyncio

    async def play() -> None:
        cache = make_cache(heard)
        truth: dict[str, Thing] = {}
        version, watching = 0, True
        for action, name in history:
            version += 1
            if action in ("write", "own write"):
                truth[name] = Thing(name, version)
                if action == "own write":
                    cache.learn(truth[name])
                if watching:
                    cache.hear("MODIFIED", truth[name])
            elif action == "delete" and name in truth:
                del truth[name]
                if watching:
                    cache.hear("DELETED", Thing(name, version))
            elif action == "gap":
                watching = False
            elif action == "relist":
                cache.adopt(dict(truth), version)
                watching = True
            if watching:
                assert cache.items == truth
        cache.adopt(dict(truth), version + 1)
        assert cache.items == truth
        # What was told adds up to the copy.
        told: dict[str, Thing] = {}
        for old, new in heard.changes:
            known = new or old
            assert known is not None
            assert told.get(known.name) == old
            if new is None:
                del told[known.name]
            else:
                told[new.name] = new
        assert told == truth

    asyncio.run(play())


# --- jobs ---------------------------------------------------------------------------------------------------


def raw_job(name: str = "a", version: int = 1, uid: str = "u1") -> dict[str, Any]:
    return {
        "metadata": {
            "name": name,
            "namespace": "default",
            "uid": uid,
            "resourceVersion": str(version),
            "creationTimestamp": "2026-01-01T00:00:00Z",
        },
        "spec": {"workload": {"name": "digits-cnn"}, "scaling": {"maxGPUs": 1}},
    }


@pytest.fixture
def gone() -> list[JobKey]:
    return []


@pytest.fixture
def store(gone: list[JobKey]) -> JobStore:
    return JobStore(gone.append)


def test_only_newer_states_of_a_job_are_news(store: JobStore) -> None:
    assert store.put(raw_job(version=5)) == ("default", "a")
    assert store.put(raw_job(version=5)) is None
    assert store.put(raw_job(version=4)) is None
    assert store.put(raw_job(version=6)) == ("default", "a")


def test_jobs_that_vanished_from_a_list_are_gone(store: JobStore, gone: list[JobKey]) -> None:
    store.put(raw_job("a", 1))
    store.put(raw_job("b", 9))
    store.adopt([], 5)
    assert gone == [("default", "a")]
    assert [job.metadata.name for job in store] == ["b"]


def test_a_list_of_one_namespace_says_nothing_about_others(store: JobStore) -> None:
    store.put(raw_job("a", 1))
    store.adopt([], 5, "elsewhere")
    assert len(store) == 1


def test_a_job_made_anew_under_its_old_name_is_another(store: JobStore, gone: list[JobKey]) -> None:
    store.put(raw_job(version=1, uid="u1"))
    store.put(raw_job(version=5, uid="u2"))
    assert gone == [("default", "a")], "what was remembered of the first must not be taken for the second's"
    store.put(raw_job(version=6, uid="u2"))
    assert len(gone) == 1


def test_the_deletion_of_an_earlier_job_does_not_drop_its_namesake(store: JobStore) -> None:
    store.put(raw_job(version=9, uid="u2"))
    store.drop(("default", "a"), "u1")
    assert len(store) == 1
    store.drop(("default", "a"), "u2")
    assert len(store) == 0


def test_a_job_that_cannot_be_read_is_left_alone(store: JobStore, caplog: pytest.LogCaptureFixture) -> None:
    broken = raw_job()
    broken["spec"]["scaling"] = {"maxGPUs": "many"}
    assert store.put(broken) is None
    assert "cannot be read" in caplog.text


# --- off the wire -------------------------------------------------------------------------------------------


def test_a_pod_is_read_as_the_kubelet_reports_it() -> None:
    pod = read_pod(
        json.dumps(
            {
                "metadata": {
                    "name": "digits-2-1",
                    "namespace": "default",
                    "uid": "p",
                    "resourceVersion": "77",
                    "creationTimestamp": "2026-01-01T00:00:00Z",
                    "deletionTimestamp": "2026-01-01T00:02:00Z",
                    "deletionGracePeriodSeconds": 60,
                    "labels": {
                        "app.kubernetes.io/managed-by": "cra-operator",
                        "cra.dev/job": "digits",
                        "cra.dev/rank": "1",
                        "cra.dev/generation": "2",
                        "cra.dev/run": "1",
                    },
                    "annotations": {"cra.dev/workers": "4", "cra.dev/joining": "1-2"},
                    "ownerReferences": [{"uid": "o", "controller": True}],
                },
                "spec": {
                    "nodeName": "gpu-0",
                    "containers": [{"resources": {"limits": {"nvidia.com/gpu": "2", "cpu": "1"}}}, {}],
                    "initContainers": [{"resources": {"limits": {"nvidia.com/gpu": "1"}}}],
                },
                "status": {
                    "phase": "Failed",
                    "conditions": [
                        {
                            "type": "PodScheduled",
                            "status": "True",
                            "lastTransitionTime": "2026-01-01T00:00:01Z",
                        },
                        {"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI"},
                        {"type": "Ready", "status": "False"},
                    ],
                    "containerStatuses": [
                        {
                            "name": "trainer",
                            "state": {
                                "terminated": {
                                    "exitCode": 143,
                                    "reason": "Error",
                                    "message": "bye",
                                    "finishedAt": "2026-01-01T00:01:30Z",
                                }
                            },
                        }
                    ],
                },
            }
        ).encode()
    )
    assert (pod.job, pod.owner, pod.generation, pod.rank, pod.workers) == ("digits", "o", 2, 1, 4)
    assert (pod.gpus, pod.node, pod.phase, pod.disruption) == (2, "gpu-0", "Failed", "EvictionByEvictionAPI")
    assert (pod.run, pod.joining) == (1, (1, 2))
    assert pod.exit is not None
    assert (pod.exit.code, pod.exit.message) == (143, "bye")
    assert pod.deleting
    assert pod.deleted is not None
    assert pod.deadline is not None
    assert (pod.deadline - pod.deleted).total_seconds() == 60
    assert not holds_gpus(pod)


def test_somebody_elses_pod_belongs_to_no_job() -> None:
    raw = {
        "metadata": {
            "name": "x",
            "namespace": "d",
            "resourceVersion": "1",
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "labels": {"cra.dev/job": "digits"},
        },
        "spec": {"nodeName": "n", "containers": [{"resources": {"requests": {"nvidia.com/gpu": "3"}}}]},
        "status": {"phase": "Running"},
    }
    pod = read_pod(json.dumps(raw).encode())
    assert pod.job == ""
    assert holds_gpus(pod)
    assert pod.gpus == 3


def test_a_waiting_container_and_an_unschedulable_pod_are_read() -> None:
    raw = {
        "metadata": {
            "name": "x",
            "namespace": "d",
            "resourceVersion": "1",
            "creationTimestamp": "2026-01-01T00:00:00Z",
        },
        "status": {
            "conditions": [
                {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/2"}
            ],
            "containerStatuses": [
                {"name": "a", "state": {"waiting": {"reason": "ContainerCreating"}}},
                {"name": "b", "state": {"waiting": {"reason": "ErrImagePull", "message": "not found"}}},
            ],
        },
    }
    pod = read_pod(json.dumps(raw).encode())
    assert pod.unschedulable == "0/2"
    assert pod.waiting is not None
    assert (pod.waiting.reason, pod.waiting.message) == ("ErrImagePull", "not found")


def test_a_node_is_read_with_its_gpus_and_taints() -> None:
    raw = {
        "metadata": {"name": "n", "resourceVersion": "3", "labels": {"nvidia.com/gpu.product": "A100"}},
        "spec": {
            "unschedulable": True,
            "taints": [
                {"key": "k", "value": "v", "effect": "NoExecute"},
                {"key": "soft", "effect": "PreferNoSchedule"},
            ],
        },
        "status": {
            "allocatable": {"nvidia.com/gpu": "8"},
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    }
    node = read_node(json.dumps(raw).encode())
    assert (node.gpus, node.gpu_type, node.ready, node.schedulable) == (8, "A100", True, False)
    assert node.taints == (Taint(key="k", value="v", effect="NoExecute"),)


@pytest.mark.parametrize(("quantity", "gpus"), [("0", 0), ("8", 8), ("1k", 1000)])
def test_quantities_are_read_as_kubernetes_spells_them(quantity: str, gpus: int) -> None:
    raw = {
        "metadata": {"name": "n", "resourceVersion": "3"},
        "status": {"allocatable": {"nvidia.com/gpu": quantity}},
    }
    assert read_node(json.dumps(raw).encode()).gpus == gpus


def test_a_quota_of_gpus_is_read() -> None:
    meta = {"name": "gpus", "namespace": "team", "resourceVersion": "7"}
    hard = {"requests.nvidia.com/gpu": "12", "pods": "3"}
    raw: dict[str, Any] = {"metadata": meta, "spec": {"hard": hard}}
    found = read_quota(json.dumps(raw).encode())
    assert (found.namespace, found.name, found.gpus) == ("team", "gpus", 12)
    raw["spec"]["scopes"] = ["BestEffort"]
    assert read_quota(json.dumps(raw).encode()).gpus is None, "it is not about all pods"
    assert read_quota(json.dumps({"metadata": meta, "spec": {"hard": {"pods": "3"}}}).encode()).gpus is None


def test_a_priority_class_is_read() -> None:
    raw = {"metadata": {"name": "high", "resourceVersion": "3"}, "value": 1000, "globalDefault": True}
    priority = read_priority(json.dumps(raw).encode())
    assert (priority.name, priority.value, priority.is_default) == ("high", 1000, True)
