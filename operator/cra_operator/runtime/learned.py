"""Where what policies learn online outlives the operator: one ConfigMap in its own namespace.

It is read before the first decision, and written every few minutes if there is news and when the operator
stops. Only the one that leads learns and writes. Trouble here costs what was learned, never a decision.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping

import aiohttp
import msgspec

from cra_operator import names
from cra_operator.controller.policies.keeping import pack, unpack
from cra_operator.controller.policies.online import Online
from cra_operator.kube import paths
from cra_operator.kube.client import ApiError, KubeClient

logger = logging.getLogger(__name__)

SAVE_SECONDS = 300.0
_TRIES, _RETRY_SECONDS = 10, 1.0
_LAST_SAVE_SECONDS = 5.0


class Keeper:
    """Keeps what was learned.

    Args:
        client: The API server.
        namespace: The operator's.
        learned: What there is to keep, by policy; nothing if nobody learns.
    """

    def __init__(self, client: KubeClient, *, namespace: str, learned: Mapping[str, Online]) -> None:
        self._client = client
        self._collection = paths.collection("ConfigMap", namespace)
        self._learned = learned
        self._open = False
        self._kept = self._news()

    async def load(self) -> None:
        """Go on from what is kept; what cannot be used is named and left behind."""
        for left in range(_TRIES if self._learned else 0, 0, -1):
            try:
                self._take(await self._read())
                return
            except (ApiError, aiohttp.ClientError, TimeoutError) as error:
                if left == 1 or (isinstance(error, ApiError) and error.status == 403):
                    self._give_up(error)
                    return
            await asyncio.sleep(_RETRY_SECONDS)

    async def run(self) -> None:
        """Keep news every few minutes, until cancelled."""
        while True:
            await asyncio.sleep(SAVE_SECONDS)
            await self.save()

    async def close(self) -> None:
        """Keep the last news, if that is a matter of seconds."""
        try:
            async with asyncio.timeout(_LAST_SAVE_SECONDS):
                await self.save()
        except TimeoutError:
            logger.warning("what was learned lately is not kept: the API server does not answer")

    async def save(self) -> None:
        """Keep what is new; not before what was kept earlier was read."""
        news = self._news()
        if not self._open or news == self._kept:
            return
        body = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": names.LEARNED, "labels": {names.MANAGED_BY_LABEL: names.APP}},
            **pack(self._learned),
        }
        try:
            await self._write(body)
            self._kept = news
        except ApiError as error:
            if error.status == 403:
                self._give_up(error)
            else:
                logger.warning("what was learned is not kept yet: %s", error)
        except (aiohttp.ClientError, TimeoutError) as error:
            logger.warning("what was learned is not kept yet: %s", error)

    def _take(self, raw: bytes) -> None:
        for policy, why in unpack(msgspec.json.decode(raw), self._learned).items():
            logger.warning(
                "what policy %s learned (ConfigMap %s) is not used, and it begins anew: %s",
                policy, names.LEARNED, why,
            )  # fmt: skip
        self._open, self._kept = True, self._news()

    async def _read(self) -> bytes:
        try:
            return await self._client.get(f"{self._collection}/{names.LEARNED}")
        except ApiError as error:
            if error.status != 404:
                raise
            return b"{}"

    async def _write(self, body: Mapping[str, object]) -> None:
        try:
            await self._client.patch(f"{self._collection}/{names.LEARNED}", body)
        except ApiError as error:
            if error.status != 404:
                raise
            await self._client.create(self._collection, body)

    def _give_up(self, error: Exception) -> None:
        self._open = False
        logger.error(
            "what policies learn will be lost when this operator ends; with controller.learnOnline the chart "
            "gives it the rights to create, get and patch ConfigMap %s: %s",
            names.LEARNED, error,
        )  # fmt: skip

    def _news(self) -> list[int]:
        return [online.updates for online in self._learned.values()]
