"""Leader election on a Lease: at any time at most one operator acts.

Whoever holds the lease renews it; the others watch its record. A record that has not changed for the lease's
duration on the watcher's own monotonic clock is dead and may be taken over, so clocks of different machines
are never compared. Every write carries the resource version that was read: of two that try, one loses.

The holder gives up on its own when it could not renew for a while that is shorter than the lease, before
anyone else can start. With the times below a crashed leader is followed within 11 seconds, and one that is
told to stop hands over at once.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import aiohttp
import msgspec

from cra_operator.kube import paths
from cra_operator.kube.client import ApiError, KubeClient

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Seconds: how long a silent lease lives, when its holder gives up, how often it is renewed and seen."""

    duration: float = 9.0
    give_up: float = 6.0
    renew: float = 2.0
    look: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Record:
    """What a Lease says: holder (empty if released), number of hand-overs, renewal time as written."""

    holder: str = ""
    renewed: str = ""
    transitions: int = 0
    version: str = ""


class Observer:
    """Judges from successive looks whether a record is alive. Pure but for the clock that it is given."""

    def __init__(self, identity: str, timing: Timing, clock: Callable[[], float] = time.monotonic) -> None:
        self._identity = identity
        self._timing = timing
        self._clock = clock
        self._record: Record | None = None
        self._since = 0.0

    def may_take(self, record: Record) -> bool:
        """Whether the lease is free, ours already, or silent for so long that its holder must be dead."""
        last = self._record
        if last is None or (last.holder, last.renewed) != (record.holder, record.renewed):
            self._record, self._since = record, self._clock()
        silent = self._clock() - self._since
        return record.holder in ("", self._identity) or silent >= self._timing.duration


class LeaderElection:
    """One candidate for one Lease."""

    def __init__(
        self, client: KubeClient, *, namespace: str, name: str, identity: str, timing: Timing | None = None
    ) -> None:
        self.in_touch = False
        self.leading = False
        self._client = client
        self._collection = paths.collection("Lease", namespace)
        self._name = name
        self._identity = identity
        self._timing = timing or Timing()
        self._observer = Observer(identity, self._timing)
        self._held: Record | None = None

    async def acquire(self) -> None:
        """Return as soon as the lease is ours."""
        told = ""
        while True:
            try:
                record = await self._read()
                self.in_touch = True
                if self._observer.may_take(record):
                    await self._write(record)
                    logger.info("leading as %s", self._identity)
                    self.leading = True
                    return
                if record.holder != told:
                    told = record.holder
                    logger.info("standing by: %s leads", record.holder)
            except (ApiError, aiohttp.ClientError, TimeoutError) as error:
                logger.info("no lease yet: %s", error)
            await asyncio.sleep(self._timing.look * random.uniform(0.8, 1.2))

    async def hold(self) -> None:
        """Renew the lease; return only when it is lost."""
        renewed = time.monotonic()
        while time.monotonic() - renewed < self._timing.give_up:
            await asyncio.sleep(self._timing.renew)
            try:
                async with asyncio.timeout(self._timing.give_up - (time.monotonic() - renewed)):
                    await self._renew()
                renewed = time.monotonic()
            except (ApiError, aiohttp.ClientError, TimeoutError) as error:
                logger.warning("the lease was not renewed: %s", error)
                if isinstance(error, ApiError) and error.status == 409 and not await self._still_ours():
                    break
        self.leading = False

    async def release(self) -> None:
        """Let go, so that another need not wait for the lease to die."""
        if not self.leading or self._held is None:
            return
        self.leading = False
        try:
            await self._write(self._held, holder="")
        except (ApiError, aiohttp.ClientError, TimeoutError) as error:
            logger.warning("the lease was not released: %s", error)

    async def _renew(self) -> None:
        assert self._held is not None
        await self._write(self._held)

    async def _still_ours(self) -> bool:
        """After a conflict: perhaps our own write was applied although its answer never came."""
        try:
            self._held = await self._read()
        except (ApiError, aiohttp.ClientError, TimeoutError):
            return True
        return self._held.holder == self._identity

    async def _read(self) -> Record:
        try:
            return _record(await self._client.get(f"{self._collection}/{self._name}"))
        except ApiError as error:
            if error.status != 404:
                raise
            return Record()

    async def _write(self, record: Record, holder: str | None = None) -> None:
        holder = self._identity if holder is None else holder
        taken = bool(holder) and record.holder != holder
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        body: dict[str, Any] = {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {"name": self._name},
            "spec": {
                "holderIdentity": holder,
                "leaseDurationSeconds": round(self._timing.duration),
                "renewTime": now,
                "leaseTransitions": record.transitions + taken,
            },
        }
        if record.version:
            body["metadata"]["resourceVersion"] = record.version
            answer = await self._client.replace(f"{self._collection}/{self._name}", body)
        else:
            answer = await self._client.create(self._collection, body)
        self._held = _record(answer)


class _Meta(msgspec.Struct, rename="camel"):
    resource_version: str = ""


class _Spec(msgspec.Struct, rename="camel", frozen=True):
    holder_identity: str | None = None
    renew_time: str | None = None
    lease_transitions: int | None = None


class _Lease(msgspec.Struct):
    metadata: _Meta
    spec: _Spec = _Spec()


def _record(raw: bytes) -> Record:
    lease = msgspec.json.decode(raw, type=_Lease)
    return Record(
        holder=lease.spec.holder_identity or "",
        renewed=lease.spec.renew_time or "",
        transitions=lease.spec.lease_transitions or 0,
        version=lease.metadata.resource_version,
    )
