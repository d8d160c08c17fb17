"""Events as kubelets post them: repeated ones counted up instead of posted again."""

import asyncio
import logging
import secrets
from collections.abc import Coroutine
from typing import Any

from .api import UNREACHABLE, Api, ApiError, Object
from .clock import now

_log = logging.getLogger(__name__)
_REMEMBERED = 2000


class Recorder:
    """Posts events in the background; losing one is no reason to stop."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._posted: dict[tuple[str, ...], Object] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def record(
        self, about: Object, node: str, kind: str, reason: str, message: str, *, container: str = ""
    ) -> None:
        """Posts an event.

        Args:
            about: the pod.
            node: whose kubelet says so.
            kind: `Normal` or `Warning`.
            reason: one word.
            message: one sentence.
            container: path of the container's field, such as `spec.containers{main}`.
        """
        meta = about["metadata"]
        key = (meta["uid"], reason, message, container)
        if (event := self._posted.get(key)) is not None:
            event["count"] += 1
            event["lastTimestamp"] = now()
            self._start(self._count(event))
            return
        event = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": f"{meta['name']}.{secrets.token_hex(8)}", "namespace": meta["namespace"]},
            "involvedObject": {
                "apiVersion": "v1",
                "kind": "Pod",
                "name": meta["name"],
                "namespace": meta["namespace"],
                "uid": meta["uid"],
                "resourceVersion": meta["resourceVersion"],
                "fieldPath": container or None,
            },
            "reason": reason,
            "message": message[:1024],
            "type": kind,
            "source": {"component": "kubelet", "host": node},
            "reportingComponent": "kubelet",
            "reportingInstance": node,
            "firstTimestamp": now(),
            "lastTimestamp": now(),
            "count": 1,
        }
        self._posted[key] = event
        if len(self._posted) > _REMEMBERED:
            del self._posted[next(iter(self._posted))]
        self._start(self._post(event))

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _post(self, event: Object) -> None:
        try:
            await self._api.create(f"/api/v1/namespaces/{event['metadata']['namespace']}/events", event)
        except (ApiError, *UNREACHABLE) as error:
            _log.info("event %s lost: %s", event["reason"], error)

    async def _count(self, event: Object) -> None:
        meta = event["metadata"]
        body = {"count": event["count"], "lastTimestamp": event["lastTimestamp"]}
        try:
            await self._api.patch(f"/api/v1/namespaces/{meta['namespace']}/events/{meta['name']}", body)
        except (ApiError, *UNREACHABLE) as error:
            _log.info("event %s lost: %s", event["reason"], error)
