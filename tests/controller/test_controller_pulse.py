"""From the cluster's objects to targets: what the pulse reads, decides and hands on."""

import asyncio
import gc
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest

from cra_operator.api import Job, JobKey, JobStatus, TypeSpeed, WorkerStatus
from cra_operator.config import Config
from cra_operator.controller.sharing import Quota
from cra_operator.controller.target import Target
from cra_operator.runtime.admissions import Admissions
from cra_operator.runtime.controller import Controller, Judge, Scene, fitting, soon_free
from cra_operator.runtime.jobs import JobStore
from cra_operator.runtime.metrics import Metrics
from cra_operator.view import PodView
from tests.operator.operator_world import START, make_job, make_node, make_pod

NOW = START + timedelta(hours=1)
CONFIG = Config(trainer_image="trainer:1", pod_name="me", policy="goodput")


def trains(name: str, gpus: int, **spec: Any) -> Job:
    """A job that has trained for a while on so many GPUs, and on one before."""
    status = JobStatus.model_validate(
        {
            "phase": "Running",
            "run": {"gpus": gpus},
            "desiredGPUs": gpus,
            "startTime": START,
            "runningTime": START + timedelta(seconds=10),
            "progress": {"ratio": 0.1, "samples": 100_000, "etaSeconds": 30_000},
            "speeds": [
                {"gpus": size, "nodes": 1, "batchSize": 64, "stepSeconds": 1.0 / size}
                for size in sorted({1, gpus})
            ],
            "conditions": [
                {
                    "type": "MetricsAvailable",
                    "status": "True",
                    "reason": "Fresh",
                    "lastTransitionTime": START,
                }
            ],
        }
    )
    return make_job(name, **spec).model_copy(update={"status": status})


def pods(name: str, gpus: int, node: str = "gpu-0") -> list[PodView]:
    return [
        make_pod(rank, job=name, name=f"{name}-1-{rank}", owner=f"uid-{name}", node=node)
        for rank in range(gpus)
    ]


def scene(jobs: Sequence[Job], *, held: Sequence[PodView] = (), **fields: Any) -> Scene:
    base: dict[str, Any] = {
        "jobs": jobs,
        "priorities": {},
        "pods": held,
        "nodes": {"gpu-0": make_node()},
        "limits": {},
        "now": NOW,
    }
    return Scene(**(base | fields))


def test_a_job_grows_from_what_its_status_tells() -> None:
    outcome = Judge(CONFIG).decide(scene([trains("a", 2)], held=pods("a", 2)))
    told = outcome.targets["default", "a"]
    assert (told.gpus, told.reason, told.policy) == (4, "GrowthPays", "goodput"), "twice what was measured"
    assert not outcome.troubles


def test_a_decision_does_not_wait_for_garbage_to_be_collected() -> None:
    seen = scene([trains("a", 2)], held=pods("a", 2))
    collections: list[str] = []
    usual = gc.get_threshold()
    gc.callbacks.append(lambda phase, _: collections.append(phase))
    gc.set_threshold(1)
    try:
        judge = Judge(CONFIG)
        collections.clear()
        judge.decide(seen)
        during = len(collections)
    finally:
        gc.set_threshold(*usual)
        gc.callbacks.pop()
    assert during < 20, "of more than a thousand; those before and after it"
    assert gc.isenabled()


def test_gpus_of_other_peoples_pods_are_not_given_away() -> None:
    other = make_pod(job="", gpus=5, name="other", namespace="elsewhere")
    outcome = Judge(CONFIG).decide(scene([trains("a", 2)], held=[*pods("a", 2), other]))
    assert outcome.targets["default", "a"].gpus == 3


def test_a_more_important_job_is_made_room_for() -> None:
    jobs = [trains("low", 8), make_job("urgent", minimum=3)]
    seen = scene(jobs, held=pods("low", 8), priorities={("default", "urgent"): 9})
    told = Judge(CONFIG).decide(seen).targets
    assert told["default", "low"].gpus == 5
    assert told["default", "urgent"].gpus is None, "what it starts with is for those who admit it"


def test_room_is_made_once_for_a_job_whose_pods_are_there_before_its_status_says_so() -> None:
    jobs = [trains("low", 6), make_job("urgent", minimum=2)]
    held = [*pods("low", 6), *pods("urgent", 2)]
    told = Judge(CONFIG).decide(scene(jobs, held=held, priorities={("default", "urgent"): 9})).targets
    assert told["default", "low"].gpus == 6


def test_quotas_reach_those_who_admit() -> None:
    config = Config(
        trainer_image="-", pod_name="me", policy="goodput", quotas={"default": Quota(gpus=3, borrow=False)}
    )
    outcome = Judge(config).decide(scene([trains("a", 2)], held=pods("a", 2), limits={"default": 2}))
    assert outcome.standing.allowed == {"default": 2}
    assert outcome.targets["default", "a"].gpus == 2


def test_what_fits_is_counted_in_whole_workers_on_nodes_that_admit_the_job() -> None:
    nodes = {"gpu-0": make_node("gpu-0", 3), "gpu-1": make_node("gpu-1", 3, labels={"zone": "b"})}
    leaving = make_pod(job="x", deadline=NOW, gpus=1)
    pair = make_job("pair", scaling={"gpusPerWorker": 2})
    picky = make_job(
        "picky", template={"spec": {"containers": [{"name": "trainer"}], "nodeSelector": {"zone": "b"}}}
    )
    seen = scene([pair, picky], nodes=nodes, held=[leaving])
    assert fitting(seen, [pair, picky, trains("runs", 2)], soon_free(seen)) == {
        ("default", "pair"): 4,
        ("default", "picky"): 3,
    }


MIXED = {"a": make_node("a", 4), "t": make_node("t", 4, gpu_type="T4")}


def taught(job: Job, *types: str, **speeds: float) -> Job:
    """The same job once it knows what a GPU of each type computes, with one worker on each of these."""
    told = {
        "gpu_types": [TypeSpeed(gpu_type=kind, samples_per_second=s) for kind, s in speeds.items()],
        "workers": [WorkerStatus(rank=r, gpus=1, gpu_type=kind) for r, kind in enumerate(types)],
        "speeds": [s.model_copy(update={"gpu_type": types[0]}) for s in job.status.speeds],
    }
    return job.model_copy(update={"status": job.status.model_copy(update=told)})


def test_new_workers_go_to_the_type_that_suits_their_job_and_a_waiting_one_learns_from_others() -> None:
    known = taught(trains("known", 1, maximum=2), "T4", A100=200, T4=100)
    waits = make_job("waits", maximum=1)
    held = pods("known", 1, node="t")
    told = Judge(CONFIG).decide(scene([known, waits], held=held, nodes=MIXED)).targets
    assert (told[known.key].gpus, told[known.key].gpu_type) == (2, "A100")
    assert told[known.key].message.endswith("new workers prefer A100, 2.0 times as fast for it as T4")
    assert told[waits.key].gpu_type == "A100"
    outcome = Judge(CONFIG).decide(scene([known], held=held, nodes=MIXED))
    assert outcome.standing.gpu_type == "A100", "for those that come before the next decision"


def test_a_job_on_slow_gpus_expects_more_of_growing_than_one_on_fast_ones() -> None:
    fast = taught(trains("fast", 1), "A100", A100=400, T4=100)
    slow = taught(trains("slow", 1), "T4", A100=400, T4=100)
    held = [*pods("fast", 1, node="a"), *pods("slow", 1, node="t")]
    told = Judge(CONFIG).decide(scene([fast, slow], held=held, nodes=MIXED)).targets
    assert (told[slow.key].gain or 0) > 1 > (told[fast.key].gain or 0) > 0


def test_on_one_type_of_gpu_decisions_are_what_they_are_without_types() -> None:
    jobs = [taught(trains("a", 2), "A100", "A100", A100=100, T4=1), trains("b", 1), make_job("c", minimum=2)]
    plain = [jobs[0].model_copy(update={"status": jobs[0].status.model_copy(update={"gpu_types": []})})]
    held = [*pods("a", 2), *pods("b", 1)]
    told = Judge(CONFIG).decide(scene(jobs, held=held)).targets
    assert told == Judge(CONFIG).decide(scene([*plain, *jobs[1:]], held=held)).targets
    unlabelled = {"gpu-0": make_node(gpu_type="")}
    assert told == Judge(CONFIG).decide(scene(jobs, held=held, nodes=unlabelled)).targets


def test_types_that_nobody_measured_change_no_decision() -> None:
    jobs = [trains("a", 2), make_job("c", minimum=2)]
    one = {name: make_node(name, 4) for name in MIXED}
    seen = [scene(jobs, held=pods("a", 2, node="a"), nodes=nodes) for nodes in (one, MIXED)]
    first, second = (Judge(CONFIG).decide(each).targets for each in seen)
    assert first == second


class Cluster:
    """What the controller asks of the caches."""

    def __init__(self, *held: PodView) -> None:
        self.nodes = {"gpu-0": make_node()}
        self.held = list(held)

    def gpu_pods(self) -> list[PodView]:
        return self.held

    def gpu_quotas(self) -> dict[str, int]:
        return {}

    def priority(self, name: str | None) -> int:
        return 0


@pytest.fixture
def store() -> JobStore:
    found = JobStore()
    job = trains("a", 2)
    raw = {**job.wire(), "metadata": {**job.metadata.wire(), "resourceVersion": "5"}}
    found.put(raw)
    return found


def pulse(store: JobStore, heard: list[JobKey], targets: dict[JobKey, Target]) -> Controller:
    cluster = Cluster(*pods("a", 2))
    admissions = Admissions(nodes=lambda: cluster.nodes, pods=cluster.gpu_pods, on_room=lambda key: None)
    return Controller(
        config=CONFIG,
        jobs=store,
        cluster=cluster,  # type: ignore[arg-type]
        admissions=admissions,
        targets=targets,
        on_target=heard.append,
        metrics=Metrics(store, lambda: 0),
    )


async def test_a_target_is_told_once_until_it_changes_or_is_forgotten(store: JobStore) -> None:
    heard: list[JobKey] = []
    targets: dict[JobKey, Target] = {}
    controller = pulse(store, heard, targets)
    await controller.tick()
    await controller.tick()
    assert heard == [("default", "a")]
    assert targets["default", "a"].gpus == 4
    del targets["default", "a"]
    await controller.tick()
    assert heard == 2 * [("default", "a")]


async def test_a_nudge_leads_to_a_decision_and_an_error_to_the_next_one(
    store: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[JobKey] = []
    controller = pulse(store, heard, {})
    failed = asyncio.Event()
    decide = Judge.decide

    def fail_first(self: Judge, seen: Scene) -> Any:
        if not failed.is_set():
            failed.set()
            raise RuntimeError("the first look goes wrong")
        return decide(self, seen)

    monkeypatch.setattr(Judge, "decide", fail_first)
    monkeypatch.setattr("cra_operator.runtime.controller._GATHER_SECONDS", 0.0)
    running = asyncio.create_task(controller.run())
    controller.nudge()
    await asyncio.wait_for(failed.wait(), 10)
    while not heard:
        controller.nudge()
        await asyncio.sleep(0)
    running.cancel()
    assert heard == [("default", "a")]
