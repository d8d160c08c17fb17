"""One pass over one job: gather what is known, decide, do it.

The decision is made in one go, without waiting for anything in between, so all that it reads belongs
together, and the promise of GPUs is made before any other job is decided. What it asks for is then done in an
order that a crash at any point survives: creations, status, deletions (see `actions.Plan`). Pods come as
early as is safe: when many jobs arrive at once, what users wait for is not held up by what can follow. Only
the claim goes before, since a pod must never start on an earlier job's checkpoints.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import msgspec

from cra_operator import names
from cra_operator.actions import (
    Apply,
    CreateClaim,
    CreatePod,
    DeleteJob,
    DeletePod,
    Plan,
    RecordEvent,
    Refusal,
)
from cra_operator.api import KIND, Job, JobKey
from cra_operator.config import Config
from cra_operator.controller.observation import Observation
from cra_operator.controller.target import Target
from cra_operator.kube import paths
from cra_operator.kube.client import ApiError, KubeClient
from cra_operator.kube.events import EventRecorder
from cra_operator.reconcile import reconcile
from cra_operator.runtime.admissions import Admissions
from cra_operator.runtime.cluster import Cluster
from cra_operator.runtime.jobs import JobStore
from cra_operator.runtime.metrics import Metrics
from cra_operator.runtime.queue import WorkQueue
from cra_operator.runtime.statuses import Throttle, is_minor, status_patch
from cra_operator.world import World, asks_for, is_ours

logger = logging.getLogger(__name__)

_MINOR_WRITE_SECONDS = 1.0


class Worker:
    """Carries out reconciliations; several run at once, on different jobs."""

    def __init__(
        self,
        *,
        config: Config,
        client: KubeClient,
        jobs: JobStore,
        cluster: Cluster,
        admissions: Admissions,
        queue: WorkQueue[JobKey],
        events: EventRecorder,
        metrics: Metrics,
        on_phase: Callable[[JobKey], None],
    ) -> None:
        self.observations: dict[JobKey, Observation] = {}
        self.targets: dict[JobKey, Target] = {}
        self._config = config
        self._client = client
        self._jobs = jobs
        self._cluster = cluster
        self._admissions = admissions
        self._queue = queue
        self._events = events
        self._metrics = metrics
        self._on_phase = on_phase
        self._throttle = Throttle(min(config.observe_interval, _MINOR_WRITE_SECONDS))

    async def run(self) -> None:
        """Work off the queue until cancelled."""
        while True:
            key = await self._queue.get()
            try:
                with self._metrics.reconciling():
                    await self._tend(key)
            except Exception as error:
                delay = self._queue.failed(key)
                expected = isinstance(error, ApiError | OSError | TimeoutError)
                logger.warning(
                    "%s/%s: %s; again in %.1f s", *key, error, delay, exc_info=None if expected else error
                )
            else:
                self._queue.succeeded(key)
            finally:
                self._queue.done(key)

    def forget(self, key: JobKey) -> None:
        """The job is gone: drop all that is remembered of it."""
        self._admissions.withdraw(key)
        self._admissions.hold(key, None)
        self._throttle.forget(key)
        self._queue.forget(key)
        self.observations.pop(key, None)
        self.targets.pop(key, None)

    async def _tend(self, key: JobKey) -> None:
        job = self._jobs.get(key)
        if job is None or not is_ours(job):
            return
        refusal = await self._carry_out(job, self._decide(job))
        if refusal is not None:
            await self._carry_out(job, self._decide(job, refusal))

    def _decide(self, job: Job, refusal: Refusal | None = None) -> Plan:
        """Gather, decide and make the promise: no other job is decided meanwhile."""
        pods = self._cluster.pods_of(job.key)
        world = World(
            job=job,
            pods=tuple(pod for pod in pods if pod.owner == job.metadata.uid),
            leftovers=sum(pod.owner != job.metadata.uid for pod in pods),
            nodes=self._cluster.nodes,
            image=self._config.trainer_image,
            image_pull_policy=self._config.trainer_image_pull_policy,
            policy=self._config.policy,
            observation=self.observations.get(job.key),
            target=self.targets.get(job.key),
            refusal=refusal,
            now=datetime.now(UTC),
        )
        ask = asks_for(world, self._cluster.priority(job.spec.priority_class_name))
        if ask is None:
            self._admissions.withdraw(job.key)
        else:
            world = replace(world, verdict=self._admissions.answer(ask))
        plan = reconcile(world)
        self._admissions.hold(job.key, plan.holding)
        if world.verdict is not None and world.verdict.fits:
            self._admissions.withdraw(job.key)
        return plan

    async def _carry_out(self, job: Job, plan: Plan) -> Refusal | None:
        """Do what the plan says; stop before the status if the API server refuses a pod for good."""
        generation = plan.status.generation or 0
        claims = (self._create_claim(job, a) for a in plan.actions if isinstance(a, CreateClaim))
        pods = (self._create_pod(job, a) for a in plan.actions if isinstance(a, CreatePod))
        services = (self._apply(a) for a in plan.actions if isinstance(a, Apply))
        for step in (claims, pods, services):
            refusal = await _together(*step)
            if refusal is not None:
                return replace(refusal, generation=generation)
        if not await self._write_status(job, plan):
            return None
        for action in plan.actions:
            if isinstance(action, RecordEvent):
                logger.info("%s/%s: %s: %s", *job.key, action.reason, action.message)
                self._events.record(job, action)
        leavers = [action for action in plan.actions if isinstance(action, DeletePod)]
        for some in (leavers[:1], leavers[1:]):  # the first is rank 0 where that goes too
            await _together(*(self._delete_pod(action) for action in some))
        await _together(*(self._delete_job(job) for a in plan.actions if isinstance(a, DeleteJob)))
        if plan.look_again is not None:
            wait = (plan.look_again - datetime.now(UTC)).total_seconds()
            self._queue.add_after(job.key, max(0.0, wait))
        return None

    async def _create_pod(self, job: Job, action: CreatePod) -> Refusal | None:
        meta = action.manifest["metadata"]
        collection = paths.collection("Pod", meta["namespace"])
        try:
            raw = await self._client.create(collection, action.manifest)
        except ApiError as error:
            if error.reason != "AlreadyExists":
                return _refusal("Pod", error)
            raw = await self._client.get(f"{collection}/{meta['name']}")
        else:
            if job.status.generation is None and meta["labels"][names.RANK_LABEL] == "0":
                self._metrics.first_pod(self._jobs.age(job.key))
        self._cluster.learn(raw)
        return None

    async def _create_claim(self, job: Job, action: CreateClaim) -> Refusal | None:
        kind, meta = action.manifest["kind"], action.manifest["metadata"]
        collection = paths.collection(kind, meta["namespace"])
        try:
            await self._client.create(collection, action.manifest)
            return None
        except ApiError as error:
            if error.reason != "AlreadyExists":
                return _refusal(kind, error)
        # An empty patch answers with the object and needs no right beyond that to patch.
        found = msgspec.json.decode(await self._client.patch(f"{collection}/{meta['name']}", {}))["metadata"]
        owners = found.get("ownerReferences", [])
        leaving = "deletionTimestamp" in found
        if not leaving and any(owner["uid"] == job.metadata.uid for owner in owners):
            return None
        earlier = any((o["kind"], o["name"]) == (KIND, job.metadata.name) for o in owners)
        text = f"{kind} {meta['name']} "
        if leaving or earlier:
            text += "of an earlier job is about to go"
        else:
            text += (
                "exists and is not this job's: name it in spec.checkpoint.volume.claimName or rename the job"
            )
        return Refusal(kind=kind, generation=0, status=409, message=text, passing=leaving or earlier)

    async def _apply(self, action: Apply) -> Refusal | None:
        kind, meta = action.manifest["kind"], action.manifest["metadata"]
        path = f"{paths.collection(kind, meta['namespace'])}/{meta['name']}"
        try:
            await self._client.apply(path, action.manifest)
        except ApiError as error:
            if error.status != 409:
                return _refusal(kind, error)
            text = f"{kind} {meta['name']} exists and is not this job's: delete it or rename the job"
            return Refusal(kind=kind, generation=0, status=409, message=text)
        return None

    async def _write_status(self, job: Job, plan: Plan) -> bool:
        """Write what changed; False if the job is gone."""
        patch = status_patch(job, plan.status)
        if patch is None:
            return True
        if is_minor(job.status, plan.status):
            wait = self._throttle.wait(job.key)
            if wait > 0:
                self._queue.add_after(job.key, wait)
                return True
        try:
            answer = await self._client.patch(f"{paths.job(job.key)}/status", patch)
        except ApiError as error:
            # 409: the uid is another's. Either way this job is gone, and the watch tells what is there now.
            if error.status not in (404, 409):
                raise
            self._jobs.drop(job.key, job.metadata.uid)
            return False
        self._throttle.note(job.key)
        raw: dict[str, Any] = msgspec.json.decode(answer)
        self._jobs.put(raw)
        self._metrics.note_transition(job, plan.status)
        if job.status.phase != plan.status.phase:
            self._on_phase(job.key)
        return True

    async def _delete_pod(self, action: DeletePod) -> None:
        path = f"{paths.collection('Pod', action.namespace)}/{action.name}"
        try:
            self._cluster.learn(await self._client.delete(path, uid=action.uid))
        except ApiError as error:
            if error.status not in (404, 409):
                raise

    async def _delete_job(self, job: Job) -> None:
        try:
            await self._client.delete(paths.job(job.key), uid=job.metadata.uid)
        except ApiError as error:
            if error.status not in (404, 409):
                raise


def _refusal(kind: str, error: ApiError) -> Refusal:
    """What the API server will not have; any other error is raised, to be tried again."""
    if error.status not in (403, 422):
        raise error
    return Refusal(kind=kind, generation=0, status=error.status, message=error.message)


async def _together(*work: Coroutine[Any, Any, Refusal | None]) -> Refusal | None:
    """Do all at once and finish all, then raise the first error or return the first refusal."""
    results = await asyncio.gather(*work, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return next((result for result in results if isinstance(result, Refusal)), None)
