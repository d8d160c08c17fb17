"""Events on jobs, written off the hot path: one object per kind of happening, counted when it repeats.

Events tell of transitions. They are best effort: when the queue is full or the API server refuses, they are
dropped with a line in the log; conditions, not events, carry the state.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections import OrderedDict
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import aiohttp

from cra_operator.actions import RecordEvent
from cra_operator.api import API_VERSION, KIND, MANAGER, Job
from cra_operator.kube import paths
from cra_operator.kube.client import ApiError, KubeClient

logger = logging.getLogger(__name__)

_BACKLOG = 1000
_REMEMBERED = 2000
_NOTE_LIMIT = 1024


@dataclass(frozen=True, kw_only=True)
class Happening:
    """An event about a job at a time."""

    job: Job
    event: RecordEvent
    time: datetime

    @property
    def name(self) -> str:
        """The object's name: the same for the same thing happening to the same job again."""
        what = "\0".join((self.job.metadata.uid, self.event.type, self.event.reason, self.event.message))
        digest = hashlib.blake2b(what.encode(), digest_size=8).hexdigest()
        return f"{self.job.metadata.name}.{digest}"


class EventRecorder:
    """Queues happenings and writes them one by one."""

    def __init__(self, client: KubeClient, instance: str) -> None:
        self._client = client
        self._instance = instance
        self._queue: asyncio.Queue[Happening] = asyncio.Queue(_BACKLOG)
        self._counts: OrderedDict[str, int] = OrderedDict()

    def record(self, job: Job, event: RecordEvent) -> None:
        """Take an event for writing; never waits."""
        try:
            self._queue.put_nowait(Happening(job=job, event=event, time=datetime.now(UTC)))
        except asyncio.QueueFull:
            logger.warning("too many events: dropped %s of %s", event.reason, job.metadata.name)

    async def run(self) -> None:
        """Write until cancelled."""
        while True:
            happening = await self._queue.get()
            try:
                await self._write(happening)
            except (ApiError, aiohttp.ClientError, TimeoutError) as error:
                logger.warning("event %s not recorded: %s", happening.event.reason, error)

    async def _write(self, happening: Happening) -> None:
        name = happening.name
        count = self._counts.get(name, 0) + 1
        collection = paths.collection("Event", happening.job.metadata.namespace)
        if count == 1:
            try:
                await self._client.create(collection, manifest(happening, self._instance))
            except ApiError as error:
                if error.status != 409:
                    raise
                count = 2  # an earlier life of the operator told it already
        if count > 1:
            series = {"count": count, "lastObservedTime": _micro(happening.time)}
            await self._client.patch(f"{collection}/{name}", {"series": series})
        self._counts[name] = count
        self._counts.move_to_end(name)
        while len(self._counts) > _REMEMBERED:
            self._counts.popitem(last=False)


def manifest(happening: Happening, instance: str) -> dict[str, Any]:
    """The Event object of a first occurrence."""
    job, event = happening.job, happening.event
    return {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"name": happening.name, "namespace": job.metadata.namespace},
        "eventTime": _micro(happening.time),
        "reportingController": MANAGER,
        "reportingInstance": instance[:128],
        "action": "Reconcile",
        "type": event.type,
        "reason": event.reason,
        "note": event.message[:_NOTE_LIMIT],
        "regarding": {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "name": job.metadata.name,
            "namespace": job.metadata.namespace,
            "uid": job.metadata.uid,
            "resourceVersion": job.metadata.resource_version,
        },
    }


def _micro(time: datetime) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
