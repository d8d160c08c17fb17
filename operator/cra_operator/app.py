"""The operator as a whole: its parts, wired together and started in order.

Standing by, only the health endpoints and the election run. With the lease, the caches fill, every job is put
in the queue once, and workers, the observer and Kopf's watch go on until a signal comes or the lease is lost.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections.abc import Awaitable, Mapping
from typing import Any

import aiohttp
import msgspec

from cra_operator import names
from cra_operator.api import JobKey
from cra_operator.config import Config
from cra_operator.controller.observation import Observation
from cra_operator.controller.observe import Observer
from cra_operator.controller.policies import LEARNERS
from cra_operator.controller.prometheus import Prometheus
from cra_operator.handlers import watch_jobs
from cra_operator.kube import paths
from cra_operator.kube.client import ApiError, KubeClient
from cra_operator.kube.events import EventRecorder
from cra_operator.kube.leader import LeaderElection
from cra_operator.runtime.admissions import Admissions
from cra_operator.runtime.cluster import Cluster
from cra_operator.runtime.controller import Controller
from cra_operator.runtime.health import serve
from cra_operator.runtime.jobs import JobStore
from cra_operator.runtime.learned import Keeper
from cra_operator.runtime.metrics import Metrics
from cra_operator.runtime.queue import WorkQueue
from cra_operator.runtime.worker import Worker

logger = logging.getLogger(__name__)

_WORKERS = 64  # they mostly wait for the API server; so many jobs that arrive together get their pods first
_STUCK_SECONDS = 120.0
_CRD_RETRY_SECONDS = 1.0


class LeaseLostError(Exception):
    """Another operator may be acting by now: this one must end at once."""


class Operator:
    """All parts of one operator process."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self.jobs = JobStore(lambda key: self._worker.forget(key))
        self.queue: WorkQueue[JobKey] = WorkQueue()
        learned = {name: begin() for name, begin in LEARNERS.items()} if config.learn_online else {}
        self.metrics = Metrics(self.jobs, lambda: self.queue.depth, learned)
        self._client = KubeClient(self.metrics.request)
        self._keeper = Keeper(self._client, namespace=config.pod_namespace, learned=learned)
        self._events = EventRecorder(self._client, config.pod_name)
        self._cluster = Cluster(
            self._client,
            namespaces=config.watch_namespaces,
            relist=config.resync,
            on_pod=self._pod_changed,
            on_capacity=lambda: self.admissions.review(),
        )
        self.admissions = Admissions(
            nodes=lambda: self._cluster.nodes,
            pods=self._cluster.gpu_pods,
            on_room=self.queue.add,
            # Without metrics nobody would take back what turns out to be too much.
            start=config.start if config.prometheus_url else 0.0,
        )
        self._worker = Worker(
            config=config,
            client=self._client,
            jobs=self.jobs,
            cluster=self._cluster,
            admissions=self.admissions,
            queue=self.queue,
            events=self._events,
            metrics=self.metrics,
            on_phase=lambda key: self.controller.nudge(),
        )
        self.controller = Controller(
            config=config,
            jobs=self.jobs,
            cluster=self._cluster,
            admissions=self.admissions,
            targets=self._worker.targets,
            on_target=self.queue.add,
            metrics=self.metrics,
            learned=learned,
        )
        self._observer = Observer(
            _prometheus(config),
            jobs=self.jobs,
            pods_of=self._cluster.pods_of,
            on_change=self._observed,
            interval=config.observe_interval,
            warm_up=config.warm_up,
            own_queries=config.prometheus_queries,
        )
        self._election = LeaderElection(
            self._client, namespace=config.pod_namespace, name=names.APP, identity=config.pod_name
        )
        self._compared = time.monotonic()
        self._acting = False

    async def run(self) -> None:
        """Run until SIGTERM or SIGINT.

        Raises:
            LeaseLostError: The lease could not be kept.
        """
        try:
            async with serve(
                health_port=self._config.health_port,
                metrics_port=self._config.metrics_port,
                alive=self._alive,
                ready=self._ready,
                metrics=self.metrics.render,
            ):
                await _until_signal(self._lead())
            await self._keeper.close()
        finally:
            await self._election.release()
            await self._client.close()

    async def _lead(self) -> None:
        if self._config.leader_election:
            await self._election.acquire()
        async with asyncio.TaskGroup() as tasks:
            if self._config.leader_election:
                tasks.create_task(self._keep_lease())
            for reflector in self._cluster.reflectors:
                tasks.create_task(reflector.run())
            tasks.create_task(self._events.run())
            await self._cluster.synced()
            await self._wait_for_definition()
            await self._keeper.load()
            logger.info("acting: %d jobs", len(self.jobs))
            self._acting = True
            for _ in range(_WORKERS):
                tasks.create_task(self._worker.run())
            tasks.create_task(self._compare_for_ever())
            tasks.create_task(self._observe_for_ever())
            tasks.create_task(self.controller.run())
            tasks.create_task(self._keeper.run())
            await watch_jobs(self._job_event, self._config.watch_namespaces)

    async def _keep_lease(self) -> None:
        await self._election.hold()
        raise LeaseLostError("the lease is lost")

    async def _wait_for_definition(self) -> None:
        """The first full list of jobs, as soon as the API server knows what they are."""
        while True:
            try:
                await self._compare()
                return
            except (ApiError, aiohttp.ClientError, TimeoutError) as error:
                logger.warning("jobs cannot be listed yet: %s", error)
                await asyncio.sleep(_CRD_RETRY_SECONDS)

    async def _compare_for_ever(self) -> None:
        while True:
            await asyncio.sleep(self._config.resync)
            try:
                await self._compare()
            except (ApiError, aiohttp.ClientError, TimeoutError) as error:
                logger.warning("jobs cannot be listed: %s", error)

    async def _compare(self) -> None:
        """Take over a fresh list of jobs, drop what vanished unnoticed, and look at every job again."""
        for scope in self._config.watch_namespaces or (None,):
            answer = msgspec.json.decode(await self._client.get(paths.jobs(scope)))
            version = int(answer["metadata"]["resourceVersion"])
            self.jobs.adopt(answer["items"], version, scope)
        for job in self.jobs:
            self.queue.add(job.key)
        self._compared = time.monotonic()

    async def _observe_for_ever(self) -> None:
        while True:
            await asyncio.sleep(self._config.observe_interval)
            await self._observer.look()
            self.controller.nudge()
            for key in self.admissions.waiting:
                self.queue.add(key)  # the line may have moved

    def _pod_changed(self, key: JobKey) -> None:
        if self.jobs.get(key) is not None:
            self.queue.add(key)

    def _job_event(self, kind: str | None, raw: Mapping[str, Any]) -> None:
        if kind == "DELETED":
            meta = raw["metadata"]
            self.jobs.drop((meta["namespace"], meta["name"]), meta["uid"])
        elif (news := self.jobs.put(raw)) is not None:
            self.queue.add(news)

    def _observed(self, key: JobKey, observation: Observation) -> None:
        self._worker.observations[key] = observation
        self.queue.add(key)

    def _alive(self) -> str | None:
        if self.queue.stalled > _STUCK_SECONDS:
            return f"jobs are due and nothing was done for {self.queue.stalled:.0f} s"
        silent = time.monotonic() - self._compared
        if self._acting and silent > 3 * self._config.resync + _STUCK_SECONDS:
            return f"no comparison with the cluster for {silent:.0f} s"
        return None

    def _ready(self) -> str | None:
        standing_by = self._config.leader_election and self._election.in_touch and not self._election.leading
        return None if self._acting or standing_by else "not synced yet"


def _prometheus(config: Config) -> Prometheus | None:
    if not config.prometheus_url:
        return None
    return Prometheus(
        config.prometheus_url, token_file=config.prometheus_token_file, ca_file=config.prometheus_ca_file
    )


async def _until_signal(work: Awaitable[None]) -> None:
    """Run until it ends or a signal asks to stop."""
    task = asyncio.ensure_future(work)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, task.cancel)
    try:
        await task
    except asyncio.CancelledError:
        logger.info("stopped")
