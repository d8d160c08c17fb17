"""Keeps a local copy of a collection and tells of every change, also of those that happened behind a gap.

A watch that broke may have missed deletions: after a new list, whatever is known but not listed any more is
reported as gone. Listeners are called in the event loop, in order, and must not block.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable

from .api import UNREACHABLE, Api, ApiError, Object

_log = logging.getLogger(__name__)
_RETRY_SECONDS = 0.5
_GONE = 410


class Watch:
    """A collection's objects by uid."""

    def __init__(self, path: str, *, field_selector: str = "") -> None:
        self.path = path
        self.objects: dict[str, Object] = {}
        self.synced = asyncio.Event()
        """Set once the first list is complete."""
        self._query = {"fieldSelector": field_selector} if field_selector else {}
        self._listeners: list[Callable[[Object, bool], None]] = []

    def on_change(self, listener: Callable[[Object, bool], None]) -> None:
        """Calls `listener(object, exists)` for every change from now on; `exists` is False for a deletion."""
        self._listeners.append(listener)

    async def run(self, api: Api) -> None:
        """Follows the collection until cancelled."""
        version = ""
        while True:
            try:
                if not version:
                    listing = await api.get(self.path, **self._query)
                    version = listing["metadata"]["resourceVersion"]
                    self.replace(listing["items"])
                    self.synced.set()
                async with api.watch(self.path, {**self._query, "resourceVersion": version}) as events:
                    async for event in events:
                        version = self._take(event)
                        if not version:
                            break
            except ApiError as error:
                _log.info("watch of %s: %s", self.path, error)
                version = ""
                await asyncio.sleep(_RETRY_SECONDS)
            except UNREACHABLE as error:
                _log.info("watch of %s: %r", self.path, error)
                await asyncio.sleep(_RETRY_SECONDS)

    def _take(self, event: Object) -> str:
        """Applies one event; returns the version to go on from, empty when only a new list helps."""
        kind, obj = event["type"], event["object"]
        if kind == "ERROR":
            if obj.get("code") != _GONE:
                _log.info("watch of %s: %s", self.path, obj.get("message"))
            return ""
        if kind != "BOOKMARK":
            self._tell(obj, kind != "DELETED")
        version: str = obj["metadata"]["resourceVersion"]
        return version

    def replace(self, items: Iterable[Object]) -> None:
        """Takes `items` as all there is: what is known and not among them is gone."""
        listed = {item["metadata"]["uid"]: item for item in items}
        for uid in [uid for uid in self.objects if uid not in listed]:
            self._tell(self.objects[uid], False)
        for uid, item in listed.items():
            if self.objects.get(uid, {}).get("metadata") != item["metadata"]:
                self._tell(item, True)

    def _tell(self, obj: Object, exists: bool) -> None:
        if exists:
            self.objects[obj["metadata"]["uid"]] = obj
        else:
            self.objects.pop(obj["metadata"]["uid"], None)
        for listener in self._listeners:
            listener(obj, exists)
