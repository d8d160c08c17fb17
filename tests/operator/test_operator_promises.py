"""Promises of GPUs: two jobs that are decided one after the other never count on the same one."""

import asyncio

from cra_operator.admission import Ask
from cra_operator.api import JobKey
from cra_operator.controller.sharing import Standing
from cra_operator.runtime.admissions import Admissions
from cra_operator.sizing import Size
from cra_operator.view import PodView
from tests.operator.operator_world import START, make_node, make_pod

A, B = ("default", "a"), ("default", "b")


class Scene:
    """Admissions over four GPUs; pods are put in by hand."""

    def __init__(self, start: float = 0.0) -> None:
        self.pods: list[PodView] = []
        self.room: asyncio.Queue[JobKey] = asyncio.Queue()
        nodes = {"gpu-0": make_node(gpus=4)}
        self.admissions = Admissions(
            nodes=lambda: nodes, pods=lambda: self.pods, on_room=self.room.put_nowait, start=start
        )

    def fits(self, key: JobKey, workers: int) -> bool:
        ask = Ask(key=key, size=Size(workers=workers, gpus_per_worker=1), created=START)
        return self.admissions.answer(ask).fits

    def grant(self, key: JobKey, workers: int) -> None:
        assert self.fits(key, workers)
        self.admissions.hold(key, Size(workers=workers, gpus_per_worker=1))
        self.admissions.withdraw(key)

    def bind(self, key: JobKey, rank: int) -> None:
        name = f"{key[1]}-1-{rank}"
        self.pods.append(make_pod(rank, job=key[1], name=name, uid=name))


async def test_what_is_promised_is_taken_before_any_pod_exists() -> None:
    scene = Scene()
    scene.grant(A, 3)
    assert not scene.fits(B, 2)
    assert scene.fits(B, 1)


async def test_pods_that_arrive_use_up_the_promise_not_more() -> None:
    scene = Scene()
    scene.grant(A, 3)
    scene.bind(A, 0)
    scene.bind(A, 1)
    assert not scene.fits(B, 2)
    assert scene.fits(B, 1)


async def test_pods_without_a_promise_count_as_well() -> None:
    """As after a restart of the operator: the pods are all there is."""
    scene = Scene()
    scene.bind(A, 0)
    scene.pods.append(make_pod(1, job="a", name="a-1-1", node=""))
    assert not scene.fits(B, 3)
    assert scene.fits(B, 2)


async def test_what_a_decision_says_of_types_of_gpu_reaches_those_who_start_before_the_next() -> None:
    scene = Scene()
    scene.admissions.share(Standing(gpu_type="T4"))
    ask = Ask(key=A, size=Size(workers=1, gpus_per_worker=1), created=START)
    assert scene.admissions.answer(ask).gpu_type == "T4"


async def test_new_jobs_that_come_one_after_the_other_share_what_is_idle() -> None:
    scene = Scene(start=0.5)
    sizes = []
    for key in (A, B):
        most = Size(workers=4, gpus_per_worker=1)
        ask = Ask(key=key, size=Size(workers=1, gpus_per_worker=1), most=most, created=START)
        size = scene.admissions.answer(ask).size
        sizes.append(size)
        scene.admissions.hold(key, size)
        scene.admissions.withdraw(key)
    assert [size.gpus for size in sizes if size is not None] == [2, 1]


async def test_a_promise_taken_back_makes_room_and_tells_who_fits() -> None:
    scene = Scene()
    scene.grant(A, 4)
    assert not scene.fits(B, 2)
    assert scene.admissions.waiting == [B]
    scene.admissions.hold(A, None)
    async with asyncio.timeout(5):
        assert await scene.room.get() == B
    assert scene.fits(B, 2)


async def test_gpus_that_get_free_are_told_to_who_waits() -> None:
    scene = Scene()
    for rank in range(4):
        scene.bind(A, rank)
    assert not scene.fits(B, 2)
    del scene.pods[2:]
    scene.admissions.review()
    scene.admissions.review()
    async with asyncio.timeout(5):
        assert await scene.room.get() == B
    assert scene.room.empty(), "many changes are one review"


async def test_nobody_is_told_when_nothing_fits() -> None:
    scene = Scene()
    assert not scene.fits(B, 5)
    scene.admissions.review()
    await asyncio.sleep(0.1)
    assert scene.room.empty()


async def test_a_job_that_gives_up_its_place_lets_the_next_one_in() -> None:
    scene = Scene()
    assert scene.fits(A, 3)
    assert not scene.fits(B, 2)
    scene.admissions.withdraw(A)
    async with asyncio.timeout(5):
        assert await scene.room.get() == B
