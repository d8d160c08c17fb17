"""The work queue: one lane per key, nothing missed, failures come back ever later."""

import asyncio

from hypothesis import given, settings
from hypothesis import strategies as st

from cra_operator.runtime.queue import WorkQueue


async def test_keys_come_out_in_order_and_once() -> None:
    queue: WorkQueue[str] = WorkQueue()
    for key in ("a", "b", "a"):
        queue.add(key)
    assert queue.depth == 2
    assert [await queue.get(), await queue.get()] == ["a", "b"]
    assert queue.depth == 0


async def test_a_key_is_never_worked_on_twice_at_once_and_no_change_is_missed() -> None:
    queue: WorkQueue[str] = WorkQueue()
    queue.add("a")
    key = await queue.get()
    queue.add("a")
    assert queue.depth == 1
    waiting = asyncio.create_task(queue.get())
    await asyncio.sleep(0)
    assert not waiting.done()
    queue.done(key)
    assert await waiting == "a"


async def test_get_waits_for_a_key() -> None:
    queue: WorkQueue[str] = WorkQueue()
    waiting = asyncio.create_task(queue.get())
    await asyncio.sleep(0)
    queue.add("a")
    assert await waiting == "a"


async def test_a_key_is_not_lost_with_the_worker_that_it_woke() -> None:
    queue: WorkQueue[str] = WorkQueue()
    first, second = asyncio.create_task(queue.get()), asyncio.create_task(queue.get())
    await asyncio.sleep(0)
    queue.add("a")
    first.cancel()
    async with asyncio.timeout(5):
        assert await second == "a"


async def test_the_earliest_of_several_later_wishes_counts() -> None:
    queue: WorkQueue[str] = WorkQueue()
    queue.add_after("a", 30)
    queue.add_after("a", 0.01)
    queue.add_after("a", 30)
    async with asyncio.timeout(5):
        assert await queue.get() == "a"


async def test_failures_come_back_after_waits_that_double() -> None:
    queue: WorkQueue[str] = WorkQueue()
    waits = [queue.failed("a") for _ in range(12)]
    assert waits[:4] == [0.1, 0.2, 0.4, 0.8]
    assert waits[-1] == 60
    queue.succeeded("a")
    assert queue.failed("a") == 0.1
    async with asyncio.timeout(5):
        assert await queue.get() == "a"


async def test_a_forgotten_key_does_not_come_back() -> None:
    queue: WorkQueue[str] = WorkQueue()
    queue.add("a")
    queue.add_after("a", 0.01)
    queue.failed("a")
    queue.forget("a")
    queue.add("b")
    assert await queue.get() == "b"
    await asyncio.sleep(0.15)
    assert queue.depth == 0


async def test_it_tells_for_how_long_nothing_was_done_although_something_is_due() -> None:
    queue: WorkQueue[str] = WorkQueue()
    assert queue.stalled == 0
    queue.add("a")
    queue.add("b")
    await asyncio.sleep(0.05)
    assert queue.stalled >= 0.05
    queue.done(await queue.get())
    assert queue.stalled < 0.05, "b still waits, but work gets done"
    queue.done(await queue.get())
    assert queue.stalled == 0


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2)), min_size=1, max_size=40))
def test_after_any_additions_every_key_is_looked_at_after_its_last_change(
    additions: list[tuple[int, int]],
) -> None:
    async def play() -> None:
        queue: WorkQueue[int] = WorkQueue()
        version: dict[int, int] = {}
        seen: dict[int, int] = {}
        busy: set[int] = set()

        async def work() -> None:
            while True:
                key = await queue.get()
                assert key not in busy
                busy.add(key)
                looked = version[key]
                for _ in range(looked % 3):
                    await asyncio.sleep(0)
                seen[key] = looked
                busy.discard(key)
                queue.done(key)

        workers = [asyncio.create_task(work()) for _ in range(3)]
        for key, pause in additions:
            version[key] = version.get(key, 0) + 1
            queue.add(key)
            for _ in range(pause):
                await asyncio.sleep(0)
        for _ in range(500):
            await asyncio.sleep(0)
        assert seen == version
        assert not any(worker.done() for worker in workers)
        for worker in workers:
            worker.cancel()

    asyncio.run(play())
