"""What Kopf does for us: it watches the jobs and tells which one changed. Nothing is decided here.

Only raw events are used. They need no finalizer and no annotations on the jobs, so an operator that is down
never holds up a deletion; children go by their owner references.

Kopf takes the loop that it runs in for its own: it puts up signal handlers and, when it stops, waits for
tasks that it does not know and cancels them. So it gets a thread and a loop of its own, and events hop over.
"""

from __future__ import annotations

import asyncio
import dataclasses
import datetime
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain, repeat
from typing import Any

import kopf

from cra_operator.api import GROUP, PLURAL, VERSION
from cra_operator.kube.client import login

JobEvent = Callable[[str | None, Mapping[str, Any]], None]
"""Hears of an event: its type (None for what the first list holds) and the object."""

_CREDENTIALS_LIVE = datetime.timedelta(minutes=5)
_STOP_SECONDS = 3.0


def register(registry: kopf.OperatorRegistry, on_event: JobEvent) -> None:
    """Put the handlers into Kopf's registry."""

    @kopf.on.login(registry=registry)
    def _login(**_: Any) -> kopf.ConnectionInfo:
        # A service account's token is rotated on disk: make Kopf come back for it.
        expiration = datetime.datetime.now(datetime.UTC) + _CREDENTIALS_LIVE
        return dataclasses.replace(login(), expiration=expiration)

    @kopf.on.event(GROUP, VERSION, PLURAL, registry=registry)
    def _job_event(event: Mapping[str, Any], **_: Any) -> None:
        on_event(event["type"], event["object"])


def settings() -> kopf.OperatorSettings:
    """Kopf with everything off that is done elsewhere."""
    chosen = kopf.OperatorSettings()
    chosen.posting.enabled = False
    chosen.scanning.disabled = True
    chosen.peering.standalone = True
    chosen.networking.request_timeout = 30
    chosen.networking.error_backoffs = _Endless()
    return chosen


class _Endless:
    """Waits between tries of a request: short at first, and never given up."""

    def __iter__(self) -> Iterator[float]:
        return chain((0.2, 0.5, 1.0, 2.0), repeat(5.0))


async def watch_jobs(on_event: JobEvent, namespaces: Sequence[str]) -> None:
    """Run Kopf until cancelled. `on_event` is called in the caller's loop, in the order of the events.

    Raises:
        Exception: Whatever ended Kopf before its time.
    """
    loop = asyncio.get_running_loop()
    stop = threading.Event()
    ended: asyncio.Future[None] = loop.create_future()

    def hop(kind: str | None, raw: Mapping[str, Any]) -> None:
        loop.call_soon_threadsafe(on_event, kind, raw)

    def end(error: BaseException | None) -> None:
        if not ended.done():
            ended.set_exception(error or RuntimeError("Kopf stopped watching"))

    def run() -> None:
        registry = kopf.OperatorRegistry()
        register(registry, hop)
        error: BaseException | None = None
        try:
            asyncio.run(
                kopf.operator(
                    registry=registry,
                    settings=settings(),
                    clusterwide=not namespaces,
                    namespaces=namespaces,
                    stop_flag=stop,
                )
            )
        except BaseException as raised:
            error = raised
        if not loop.is_closed():
            loop.call_soon_threadsafe(end, error)

    threading.Thread(target=run, name="kopf", daemon=True).start()
    try:
        await asyncio.shield(ended)
    finally:
        stop.set()
        await asyncio.wait([ended], timeout=_STOP_SECONDS)
        ended.cancel()
