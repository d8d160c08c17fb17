"""A local copy of a collection that stays true across gaps in the watch.

A watch only tells what happens while it is open. What was deleted during a gap is simply not mentioned again,
and a cache that trusts events alone keeps a ghost of it for ever. So every list is compared with the copy:
what is not in it and is not newer than it has vanished, and is reported as such. A new list is made whenever
the watch ends for whatever reason, and from time to time anyway.

The copy never lags behind the operator's own writes: whoever creates or deletes an object hands the answer to
`learn`. Resource versions order everything; an event older than what is known changes nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable, Mapping
from typing import Generic, Protocol, TypeVar

import aiohttp
import msgspec

from cra_operator.kube.client import ApiError, KubeClient

logger = logging.getLogger(__name__)

_PAGE = 500
_RETRY_SECONDS = (0.2, 5.0)


class Versioned(Protocol):
    """What the copy needs of an object."""

    @property
    def resource_version(self) -> int:
        """The object's resource version."""


class _ListMetadata(msgspec.Struct, rename="camel"):
    resource_version: str = "0"
    next_page: str | None = msgspec.field(name="continue", default=None)


class _List(msgspec.Struct):
    metadata: _ListMetadata
    items: list[msgspec.Raw]


V = TypeVar("V", bound=Versioned)
K = TypeVar("K")
OnChange = Callable[[V | None, V | None], None]


class Reflector(Generic[K, V]):
    """Keeps `items` equal to a collection.

    Args:
        client: The API server.
        path: The collection.
        decode: Makes the local view of an object from its JSON; None leaves it out.
        key: Identity of a view.
        on_change: Hears of every difference as (old, new); one of them is None for additions and removals.
        params: Selectors for lists and watches.
        relist: Seconds after which the collection is listed anew even if the watch is fine.
    """

    def __init__(
        self,
        client: KubeClient,
        path: str,
        *,
        decode: Callable[[bytes], V],
        key: Callable[[V], K],
        on_change: OnChange[V],
        keep: Callable[[V], bool] = lambda view: True,
        params: Mapping[str, str] | None = None,
        relist: float = 300.0,
    ) -> None:
        self.items: dict[K, V] = {}
        self.synced = asyncio.Event()
        self._client = client
        self._path = path
        self._decode = decode
        self._key = key
        self._keep = keep
        self._on_change = on_change
        self._params = dict(params or {})
        self._relist = relist
        self._seen = 0

    async def run(self) -> None:
        """List and watch until cancelled."""
        wait, longest = _RETRY_SECONDS
        while True:
            try:
                version = await self._list()
                self.synced.set()
                wait = _RETRY_SECONDS[0]
                await self._watch(version)
            except (ApiError, aiohttp.ClientError, TimeoutError) as error:
                logger.warning("watching %s: %s; listing it again in %.1f s", self._path, error, wait)
                await asyncio.sleep(wait * random.uniform(0.8, 1.2))
                wait = min(longest, wait * 2)

    async def _list(self) -> str:
        """Compare the collection with the copy; return its resource version."""
        found: dict[K, V] = {}
        page: str | None = ""
        version = "0"
        while page is not None:
            params = {**self._params, "limit": str(_PAGE), **({"continue": page} if page else {})}
            answer = msgspec.json.decode(await self._client.get(self._path, params), type=_List)
            version = answer.metadata.resource_version
            page = answer.metadata.next_page or None
            for raw in answer.items:
                view = self._decode(bytes(raw))
                if self._keep(view):
                    found[self._key(view)] = view
        self.adopt(found, int(version))
        return version

    def adopt(self, found: Mapping[K, V], version: int) -> None:
        """Take over a list of the collection as of a resource version."""
        self._seen = max(self._seen, version)
        for key, old in list(self.items.items()):
            # What is newer than the list was learnt while the list was under way.
            if key not in found and old.resource_version <= version:
                del self.items[key]
                self._on_change(old, None)
        for view in found.values():
            self._update(view)

    async def _watch(self, version: str) -> None:
        params = {
            **self._params,
            "resourceVersion": version,
            "timeoutSeconds": str(max(1, round(self._relist * random.uniform(0.8, 1.0)))),
        }
        stream = self._client.watch(self._path, params)
        async with contextlib.aclosing(stream):
            async for kind, raw in stream:
                if kind != "BOOKMARK":
                    self.hear(kind, self._decode(raw))

    def hear(self, kind: str, view: V) -> None:
        """Take over one event of the watch."""
        self._seen = max(self._seen, view.resource_version)
        if kind == "DELETED" or not self._keep(view):
            known = self.items.get(self._key(view))
            if known is not None and known.resource_version <= view.resource_version:
                del self.items[self._key(view)]
                self._on_change(known, None)
        else:
            self._update(view)

    def learn(self, view: V) -> None:
        """Take over the answer to a write of one's own.

        An answer that is older than what the watch has delivered, of an object that is not in the copy,
        belongs to an object that came and went meanwhile.
        """
        unknown = self._key(view) not in self.items
        if self._keep(view) and not (unknown and view.resource_version <= self._seen):
            self._update(view)

    def _update(self, view: V) -> None:
        key = self._key(view)
        old = self.items.get(key)
        if old is None or old.resource_version < view.resource_version:
            self.items[key] = view
            self._on_change(old, view)
