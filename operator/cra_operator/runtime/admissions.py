"""Who asks for GPUs and who has been promised some: the state around `admission.decide`.

A promise (`hold`) is made in the same instant as the decision, long before the pods that use it are seen, so
two jobs that are decided one after the other never count on the same GPU. It is only a bridge: pods that
exist speak for themselves, and after a restart they are all there is.

All asks are decided together and the answers stay good while they are acted upon, since each already allows
for those before it. They are made anew when a new ask comes, and shortly after the cluster's room changed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence

from cra_operator.admission import Ask, Shares, Verdict, bound_gpus, decide, free_gpus
from cra_operator.api import JobKey
from cra_operator.controller.sharing import Standing
from cra_operator.sizing import Size
from cra_operator.view import NodeView, PodView, holds_gpus

_GATHER_SECONDS = 0.05


class Admissions:
    """Asks and promises.

    Args:
        nodes: Gives all nodes by name.
        pods: Gives all pods that request GPUs and are not over.
        on_room: Hears the keys of waiting jobs that fit after the cluster's room changed.
        start: The part of the idle GPUs with which a job starts whose speed nobody knows.
    """

    def __init__(
        self,
        *,
        nodes: Callable[[], Mapping[str, NodeView]],
        pods: Callable[[], Sequence[PodView]],
        on_room: Callable[[JobKey], None],
        start: float = 0.0,
    ) -> None:
        self._nodes = nodes
        self._pods = pods
        self._on_room = on_room
        self._start = start
        self._asks: dict[JobKey, Ask] = {}
        self._promises: dict[JobKey, Size] = {}
        self._verdicts: dict[JobKey, Verdict] = {}
        self._review: asyncio.TimerHandle | None = None
        self._standing = Standing()

    @property
    def waiting(self) -> list[JobKey]:
        """Jobs that ask for GPUs and have not been given them."""
        return list(self._asks)

    def share(self, standing: Standing) -> None:
        """From now on grant what is in keeping with this."""
        if standing != self._standing:
            self._standing = standing
            self.review()

    def answer(self, ask: Ask) -> Verdict:
        """The verdict on an ask, among all others that are known."""
        if self._asks.get(ask.key) != ask or ask.key not in self._verdicts:
            self._asks[ask.key] = ask
            self._decide()
        return self._verdicts[ask.key]

    def withdraw(self, key: JobKey) -> None:
        """The job asks for nothing, or for nothing more."""
        self._asks.pop(key, None)
        verdict = self._verdicts.pop(key, None)
        if verdict is not None and verdict.fits and key not in self._promises:
            self.review()

    def hold(self, key: JobKey, size: Size | None) -> None:
        """Promise a job these GPUs, or take the promise back."""
        if size is not None:
            self._promises[key] = size
        elif self._promises.pop(key, None) is not None:
            self.review()

    def review(self) -> None:
        """Look again, shortly, who fits: GPUs were freed or taken. Many changes at once are one review."""
        if self._review is None and self._asks:
            self._review = asyncio.get_running_loop().call_later(_GATHER_SECONDS, self._tell_who_fits)

    def _tell_who_fits(self) -> None:
        self._review = None
        self._decide()
        for key, verdict in self._verdicts.items():
            if verdict.fits:
                self._on_room(key)

    def _decide(self) -> None:
        nodes, pods = self._nodes(), self._pods()
        free = free_gpus(nodes.values(), bound_gpus(pods), self._coming(pods))
        standing = self._standing
        shares = Shares(
            room=self._room(pods),
            closed=standing.closed,
            order=standing.order,
            gpu_type=standing.gpu_type,
            start=self._start,
        )
        self._verdicts = decide(self._asks.values(), nodes, free, shares)

    def _room(self, pods: Sequence[PodView]) -> dict[str, int]:
        """GPUs that the jobs of each limited namespace may still take."""
        if not self._standing.allowed:
            return {}
        held = {job: size.gpus for job, size in self._promises.items()}
        there: dict[JobKey, int] = {}
        for pod in pods:
            if pod.job:
                there[pod.namespace, pod.job] = there.get((pod.namespace, pod.job), 0) + pod.gpus
        room = dict(self._standing.allowed)
        for job in held.keys() | there.keys():
            if job[0] in room:
                room[job[0]] -= max(held.get(job, 0), there.get(job, 0))
        return room

    def _coming(self, pods: Sequence[PodView]) -> list[Size]:
        """Pods on their way to a node: created but not bound, or promised but not created."""
        coming: list[Size] = []
        bound: dict[JobKey, int] = {}
        for pod in pods:
            job = pod.namespace, pod.job
            if holds_gpus(pod):
                bound[job] = bound.get(job, 0) + 1
            elif pod.gpus and job not in self._promises:
                coming.append(Size(workers=1, gpus_per_worker=pod.gpus))
        for job, size in self._promises.items():
            missing = size.workers - bound.get(job, 0)
            if missing > 0:
                coming.append(Size(workers=missing, gpus_per_worker=size.gpus_per_worker))
        return coming
