"""The controller's pulse: it looks at all jobs, lets `controller.deciding` decide, and hands the targets on.

A decision is made at every look at the metrics, and soon after jobs came, went or changed their state. It
reads frozen values only, so it is made in a thread: the event loop goes on serving jobs meanwhile. If the
operator dies nothing is lost: the next one sees the same statuses and decides the same.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial

from cra_operator.admission import alike, ask_for, bound_gpus, free_gpus, room_for
from cra_operator.api import Job, JobKey
from cra_operator.config import Config
from cra_operator.controller.census import census
from cra_operator.controller.deciding import Look, Outcome, decide
from cra_operator.controller.facts import facts_of, takes_part, waits
from cra_operator.controller.gpu_types import worth_of
from cra_operator.controller.landing import with_types
from cra_operator.controller.modelling import Outlooks
from cra_operator.controller.policies import NOTHING, make
from cra_operator.controller.policies.online import Online
from cra_operator.controller.sharing import Rules, accounts
from cra_operator.controller.target import Target
from cra_operator.runtime.admissions import Admissions
from cra_operator.runtime.cluster import Cluster
from cra_operator.runtime.counsel import Counsel
from cra_operator.runtime.jobs import JobStore
from cra_operator.runtime.metrics import Metrics
from cra_operator.sizing import least
from cra_operator.view import NodeView, PodView
from cra_operator.world import is_ours

logger = logging.getLogger(__name__)

_GATHER_SECONDS = 0.5
"""Jobs that come or go together are decided about together."""


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A copy of all that a decision reads."""

    jobs: Sequence[Job]
    priorities: Mapping[JobKey, int]
    pods: Sequence[PodView]
    nodes: Mapping[str, NodeView]
    limits: Mapping[str, int]
    now: datetime


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """Collect no garbage meanwhile: a full collection takes as long as a decision, and can follow it."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


class Judge:
    """Decides about a scene; remembers nothing but models of speed and what policies remember.

    Args:
        config: The operator's settings.
        learned: What policies have learned and go on learning.
    """

    def __init__(self, config: Config, learned: Mapping[str, Online] = NOTHING) -> None:
        self._config = config
        self._counsel = Counsel(partial(make, learned=learned))
        self._outlooks = Outlooks()

    @_uncollected()
    def decide(self, scene: Scene) -> Outcome:
        """One tick."""
        config, now = self._config, scene.now
        rules = Rules(
            quotas=config.quotas,
            limits=scene.limits,
            queues=config.queues,
            half_life=config.half_life_hours * 3600,
        )
        active = {job.key: job for job in scene.jobs if takes_part(job)}
        worth = worth_of(scene.jobs, scene.nodes.values())
        counted = census(
            active.values(),
            pods=scene.pods,
            nodes=scene.nodes.values(),
            priorities=scene.priorities,
            now=now,
            outlooks=self._outlooks,
            worth=worth,
        )
        free = soon_free(scene)
        fits = fitting(scene, active.values(), free)
        facts = [
            facts_of(
                active[key],
                default=config.policy,
                priority=scene.priorities.get(key, 0),
                fits=fits.get(key, 0),
                now=now,
            )
            for key in counted.keys
        ]
        look = Look(
            facts=facts,
            seen=counted.seen,
            rules=rules,
            used=accounts(scene.jobs, half_life=rules.half_life, now=now),
            hysteresis=config.hysteresis,
            now=now,
        )
        outcome = decide(look, self._counsel)
        return with_types(outcome, facts, active, worth, scene.nodes, free)


def soon_free(scene: Scene) -> dict[str, int]:
    """GPUs of each node that are free, or will be once the pods that leave are gone."""
    staying = bound_gpus(pod for pod in scene.pods if not pod.deleting)
    return free_gpus(scene.nodes.values(), staying, coming=())


def fitting(scene: Scene, jobs: Iterable[Job], free: Mapping[str, int]) -> dict[JobKey, int]:
    """GPUs in whole workers that are free for each job that waits, or soon will be as pods leave.

    One that starts just now may have its pods before its status says so: their GPUs are free for it.

    Args:
        scene: What there is.
        jobs: Those that have GPUs or want some.
        free: GPUs of each node that are free, or soon will be.
    """
    line = {job.key: job for job in jobs if waits(job)}
    theirs = bound_gpus(pod for pod in scene.pods if (pod.namespace, pod.job) in line and not pod.deleting)
    free = {name: gpus + theirs.get(name, 0) for name, gpus in free.items()}
    known: dict[tuple[object, ...], int] = {}
    found = {}
    for key, job in line.items():
        same = alike(job)
        if same not in known:
            known[same] = room_for(ask_for(job, least(job.spec.scaling)), scene.nodes, free)
        found[key] = known[same]
    return found


class Controller:
    """Runs decisions one after another.

    Args:
        config: The operator's settings.
        jobs: All jobs.
        cluster: Pods, nodes and quotas.
        admissions: Hears what limits it from now on.
        targets: Where targets are kept; whoever forgets a job takes its target away.
        on_target: Hears the key of every job whose target is another than before.
        metrics: The operator's own metrics.
        learned: What policies have learned and go on learning.
    """

    def __init__(
        self,
        *,
        config: Config,
        jobs: JobStore,
        cluster: Cluster,
        admissions: Admissions,
        targets: dict[JobKey, Target],
        on_target: Callable[[JobKey], None],
        metrics: Metrics,
        learned: Mapping[str, Online] = NOTHING,
    ) -> None:
        self._jobs = jobs
        self._cluster = cluster
        self._admissions = admissions
        self._on_target = on_target
        self._metrics = metrics
        self._judge = Judge(config, learned)
        self._due = asyncio.Event()
        self._targets = targets
        self._troubles: Mapping[str, str] = {}

    def nudge(self) -> None:
        """Something changed that sizes depend on: decide soon."""
        self._due.set()

    async def run(self) -> None:
        """Decide whenever it is due, until cancelled."""
        while True:
            await self._due.wait()
            await asyncio.sleep(_GATHER_SECONDS)
            self._due.clear()
            try:
                await self.tick()
            except Exception:
                # Sizes stay as they are; whatever is wrong must not take the operator's other work down.
                logger.exception("no decision about sizes")

    async def tick(self) -> None:
        """Decide once."""
        scene, began = self._scene(), time.monotonic()
        outcome = await asyncio.to_thread(self._judge.decide, scene)
        self._metrics.decided(time.monotonic() - began)
        self._tell(outcome)

    def _scene(self) -> Scene:
        jobs = [job for job in self._jobs if is_ours(job)]
        return Scene(
            jobs=jobs,
            priorities={job.key: self._cluster.priority(job.spec.priority_class_name) for job in jobs},
            pods=self._cluster.gpu_pods(),
            nodes=dict(self._cluster.nodes),
            limits=self._cluster.gpu_quotas(),
            now=datetime.now(UTC),
        )

    def _tell(self, outcome: Outcome) -> None:
        for policy, trouble in outcome.troubles.items():
            if self._troubles.get(policy) != trouble:
                logger.error("policy %s could not decide, another does in its stead: %s", policy, trouble)
        self._troubles = outcome.troubles
        self._admissions.share(outcome.standing)
        for key, target in outcome.targets.items():
            if self._targets.get(key) != target and self._jobs.get(key) is not None:
                self._targets[key] = target
                self._on_target(key)
