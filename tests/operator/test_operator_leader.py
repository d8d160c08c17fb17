"""Leader election: one at a time, taken over when silent, handed over on a stop, given up when lost."""

import asyncio
import json
from typing import Any

import pytest

from cra_operator.kube.client import ApiError
from cra_operator.kube.leader import LeaderElection, Observer, Record, Timing

FAST = Timing(duration=0.5, give_up=0.3, renew=0.05, look=0.05)


class OneLease:
    """The part of the API server that keeps a Lease: compare-and-swap on its resource version."""

    def __init__(self) -> None:
        self.lease: dict[str, Any] | None = None
        self.version = 0
        self.broken = False

    def _answer(self) -> bytes:
        if self.broken:
            raise ApiError(500, "InternalError", "etcd is away")
        assert self.lease is not None
        return json.dumps(self.lease).encode()

    def _store(self, body: dict[str, Any]) -> bytes:
        self.version += 1
        self.lease = {**body, "metadata": {**body["metadata"], "resourceVersion": str(self.version)}}
        return self._answer()

    async def get(self, path: str, params: None = None) -> bytes:
        await asyncio.sleep(0)
        if self.lease is None and not self.broken:
            raise ApiError(404, "NotFound", path)
        return self._answer()

    async def create(self, path: str, body: dict[str, Any]) -> bytes:
        await asyncio.sleep(0)
        if self.lease is not None:
            raise ApiError(409, "AlreadyExists", path)
        return self._store(body)

    async def replace(self, path: str, body: dict[str, Any]) -> bytes:
        await asyncio.sleep(0)
        if self.broken:
            raise ApiError(500, "InternalError", "etcd is away")
        if body["metadata"]["resourceVersion"] != str(self.version):
            raise ApiError(409, "Conflict", path)
        return self._store(body)

    @property
    def holder(self) -> str:
        assert self.lease is not None
        return str(self.lease["spec"]["holderIdentity"])


def candidate(lease: OneLease, name: str) -> LeaderElection:
    return LeaderElection(
        lease,  # type: ignore[arg-type]
        namespace="cra-system",
        name="cra-operator",
        identity=name,
        timing=FAST,
    )


async def test_the_first_candidate_leads_and_the_second_stands_by() -> None:
    lease = OneLease()
    first, second = candidate(lease, "one"), candidate(lease, "two")
    await first.acquire()
    holding = asyncio.create_task(first.hold())
    waiting = asyncio.create_task(second.acquire())
    await asyncio.sleep(3 * FAST.duration)
    assert not waiting.done(), "the lease is renewed"
    assert second.in_touch
    assert lease.holder == "one"
    for task in (holding, waiting):
        task.cancel()


async def test_a_dead_leader_is_followed_after_the_leases_duration() -> None:
    lease = OneLease()
    await candidate(lease, "one").acquire()
    second = candidate(lease, "two")
    started = asyncio.get_running_loop().time()
    async with asyncio.timeout(5):
        await second.acquire()
    assert asyncio.get_running_loop().time() - started >= FAST.duration
    assert lease.holder == "two"
    assert lease.lease is not None
    assert lease.lease["spec"]["leaseTransitions"] == 2


async def test_a_leader_that_stops_hands_over_at_once() -> None:
    lease = OneLease()
    first, second = candidate(lease, "one"), candidate(lease, "two")
    await first.acquire()
    waiting = asyncio.create_task(second.acquire())
    await asyncio.sleep(0.06)
    await first.release()
    started = asyncio.get_running_loop().time()
    await waiting
    assert asyncio.get_running_loop().time() - started < FAST.duration / 2


async def test_a_leader_that_cannot_renew_gives_up_before_another_can_lead() -> None:
    lease = OneLease()
    leader = candidate(lease, "one")
    await leader.acquire()
    lease.broken = True
    started = asyncio.get_running_loop().time()
    async with asyncio.timeout(5):
        await leader.hold()
    assert asyncio.get_running_loop().time() - started < FAST.duration
    assert not leader.leading


async def test_a_short_trouble_is_survived() -> None:
    lease = OneLease()
    leader = candidate(lease, "one")
    await leader.acquire()
    holding = asyncio.create_task(leader.hold())
    lease.broken = True
    await asyncio.sleep(0.12)
    lease.broken = False
    await asyncio.sleep(0.4)
    assert not holding.done()
    holding.cancel()


async def test_a_lease_that_was_taken_is_given_up_at_once() -> None:
    lease = OneLease()
    leader = candidate(lease, "one")
    await leader.acquire()
    assert lease.lease is not None
    spec = {**lease.lease["spec"], "holderIdentity": "thief"}
    lease._store({**lease.lease, "spec": spec})
    async with asyncio.timeout(FAST.give_up):
        await leader.hold()
    assert not leader.leading


async def test_a_lost_answer_of_an_own_write_is_no_loss() -> None:
    lease = OneLease()
    leader = candidate(lease, "one")
    await leader.acquire()
    assert lease.lease is not None
    lease._store(lease.lease)  # our own renewal, whose answer never came: the version moved on
    holding = asyncio.create_task(leader.hold())
    await asyncio.sleep(0.3)
    assert not holding.done()
    holding.cancel()


async def test_of_many_candidates_exactly_one_leads() -> None:
    lease = OneLease()
    candidates = [candidate(lease, f"c{number}") for number in range(5)]
    tasks = [asyncio.create_task(each.acquire()) for each in candidates]
    await asyncio.sleep(FAST.duration / 2)
    assert sum(task.done() for task in tasks) == 1
    assert sum(each.leading for each in candidates) == 1
    for task in tasks:
        task.cancel()


async def test_releasing_what_was_never_held_does_nothing() -> None:
    lease = OneLease()
    await candidate(lease, "one").release()
    assert lease.lease is None


@pytest.mark.parametrize("holder", ["", "me"])
def test_a_free_lease_or_ones_own_may_be_taken_at_once(holder: str) -> None:
    assert Observer("me", FAST).may_take(Record(holder=holder, renewed="t"))


def test_silence_is_measured_on_the_own_clock_whatever_the_record_says() -> None:
    clock = 100.0
    observer = Observer("me", Timing(), lambda: clock)
    assert not observer.may_take(Record(holder="other", renewed="1999"))
    clock += 8.9
    assert not observer.may_take(Record(holder="other", renewed="1999"))
    assert not observer.may_take(Record(holder="other", renewed="2000")), "it was renewed"
    clock += 8.9
    assert not observer.may_take(Record(holder="other", renewed="2000"))
    clock += 0.2
    assert observer.may_take(Record(holder="other", renewed="2000"))
