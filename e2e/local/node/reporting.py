"""Tells the API server about a pod: its status whenever it has changed, and in the end that it may go.

While its node plays dead, nothing is sent.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from . import status
from .api import UNREACHABLE, Api, ApiError, Object
from .clock import now
from .nodes import Node
from .status import PodView

_log = logging.getLogger(__name__)
_RETRY_SECONDS = 0.5
# Not found, or found with another uid: the object that this is about exists no more.
_GONE = (404, 409)


class Reporter:
    """The only one who writes a pod's status."""

    def __init__(self, api: Api, node: Node, look: Callable[[], tuple[Object, PodView]]) -> None:
        """`look` gives the pod's newest object and what there is to report."""
        self._api, self._node, self._look = api, node, look
        self._changed = asyncio.Event()
        self._written: Object | None = None
        self._answer: Object | None = None
        self.gone = asyncio.Event()
        """Set when there is no object any more."""

    def notify(self) -> None:
        """Something may have changed."""
        self._changed.set()

    async def run(self) -> None:
        """Reports changes until cancelled."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            await self.flush()

    async def flush(self) -> None:
        """Writes the status as it is now, unless that is what was written last."""

        async def write() -> None:
            pod, view = self._look()
            # The watch may lag behind what was written here.
            base = pod if self._answer is None else pod | {"status": self._answer}
            body = status.build(base, view, now())
            if body != self._written:
                patch = {"metadata": {"uid": pod["metadata"]["uid"]}, "status": body}
                answer = await self._api.patch(f"{_path(pod)}/status", patch)
                self._written, self._answer = body, answer["status"]

        await self._insist(write)

    async def delete(self) -> None:
        """Deletes the object for good, provided it still is the same."""

        async def delete() -> None:
            pod, _ = self._look()
            preconditions = {"uid": pod["metadata"]["uid"]}
            await self._api.delete(_path(pod), {"gracePeriodSeconds": 0, "preconditions": preconditions})

        await self._insist(delete)

    async def _insist(self, action: Callable[[], Awaitable[None]]) -> None:
        while not self.gone.is_set():
            await self._node.reachable.wait()
            try:
                await action()
            except ApiError as error:
                if error.status in _GONE:
                    return
                _log.warning("pod %s: %s", self._look()[0]["metadata"]["name"], error)
            except UNREACHABLE as error:
                _log.info("pod %s: %r", self._look()[0]["metadata"]["name"], error)
            else:
                return
            await asyncio.sleep(_RETRY_SECONDS)


def _path(pod: Object) -> str:
    meta = pod["metadata"]
    return f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}"
