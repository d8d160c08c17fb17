"""Events: one object per kind of happening, counted when it repeats; best effort."""

import asyncio
from typing import Any

import pytest

from cra_operator.actions import RecordEvent
from cra_operator.kube.client import ApiError
from cra_operator.kube.events import EventRecorder, Happening, manifest
from tests.operator.operator_world import START, make_job

RUNNING = RecordEvent(type="Normal", reason="Running", message="generation 1 trains on 2 GPUs")


class Recorded:
    """The part of the API server that keeps events."""

    def __init__(self) -> None:
        self.created: dict[str, dict[str, Any]] = {}
        self.patched: list[tuple[str, dict[str, Any]]] = []
        self.refuse = False

    async def create(self, path: str, body: dict[str, Any]) -> bytes:
        if self.refuse:
            raise ApiError(403, "Forbidden", "no events here")
        if body["metadata"]["name"] in self.created:
            raise ApiError(409, "AlreadyExists", path)
        self.created[body["metadata"]["name"]] = body
        return b""

    async def patch(self, path: str, body: dict[str, Any]) -> bytes:
        self.patched.append((path, body))
        return b""


async def drain(recorder: EventRecorder) -> None:
    """Let the recorder write all that it has."""
    task = asyncio.create_task(recorder.run())
    for _ in range(20):
        await asyncio.sleep(0)
    task.cancel()


def test_an_event_says_what_happened_to_which_job() -> None:
    body = manifest(Happening(job=make_job(), event=RUNNING, time=START), "op-1")
    assert body["metadata"]["namespace"] == "default"
    assert body["reportingController"] == "cra.dev/operator"
    assert (body["reason"], body["type"], body["note"]) == ("Running", "Normal", RUNNING.message)
    assert body["regarding"]["uid"] == "uid-digits"
    assert body["eventTime"] == "2026-01-01T00:00:00.000000Z"


def test_notes_are_cut_to_what_the_api_takes() -> None:
    event = RecordEvent(type="Warning", reason="X", message="y" * 5000)
    assert len(manifest(Happening(job=make_job(), event=event, time=START), "op-1")["note"]) == 1024


async def test_the_same_thing_again_is_counted_not_repeated() -> None:
    api = Recorded()
    recorder = EventRecorder(api, "op-1")  # type: ignore[arg-type]
    for _ in range(3):
        recorder.record(make_job(), RUNNING)
    recorder.record(make_job(), RecordEvent(type="Normal", reason="Running", message="generation 2"))
    await drain(recorder)
    assert len(api.created) == 2
    assert [body["series"]["count"] for _, body in api.patched] == [2, 3]


async def test_an_event_of_an_earlier_life_is_counted_on() -> None:
    api = Recorded()
    for _ in range(2):
        recorder = EventRecorder(api, "op-1")  # type: ignore[arg-type]
        recorder.record(make_job(), RUNNING)
        await drain(recorder)
    assert len(api.created) == 1
    assert len(api.patched) == 1


async def test_a_refused_event_stops_nothing(caplog: pytest.LogCaptureFixture) -> None:
    api = Recorded()
    recorder = EventRecorder(api, "op-1")  # type: ignore[arg-type]
    api.refuse = True
    recorder.record(make_job(), RUNNING)
    await drain(recorder)
    assert "not recorded" in caplog.text
    api.refuse = False
    recorder.record(make_job("other"), RUNNING)
    await drain(recorder)
    assert len(api.created) == 1


async def test_a_flood_is_cut_off(caplog: pytest.LogCaptureFixture) -> None:
    recorder = EventRecorder(Recorded(), "op-1")  # type: ignore[arg-type]
    for _ in range(1001):
        recorder.record(make_job(), RUNNING)
    assert "too many events" in caplog.text
