"""Pods come and go together: those that begin a run, those that join it, all of them at its end."""

from __future__ import annotations

from collections.abc import Iterable

from cra_operator import build
from cra_operator.actions import Apply, CreateClaim, CreatePod, DeletePod
from cra_operator.lifecycle.draft import Draft
from cra_operator.sizing import Cohort
from cra_operator.view import PodView
from cra_operator.world import World


def create(world: World, draft: Draft, cohort: Cohort, ranks: Iterable[int] | None = None) -> None:
    """Create the pods of a cohort, or only these ranks of it, and what they need beside themselves."""
    claim = None if cohort.joins else build.claim(world.job)
    if claim is not None:
        draft.do(CreateClaim(manifest=claim))
    for rank in cohort.ranks if ranks is None else ranks:
        manifest = build.pod(
            world.job,
            cohort=cohort,
            rank=rank,
            image=world.image,
            image_pull_policy=world.image_pull_policy,
            gpu_type=world.gpu_type,
        )
        draft.do(CreatePod(manifest=manifest))
    draft.do(Apply(manifest=build.service(world.job)))


def complete(world: World, draft: Draft) -> None:
    """Create what a crash kept from being created with the rest of the pods that begin a run."""
    everyone = tuple(range(world.size.workers))
    cohort = Cohort(run=world.run, generation=world.run, size=world.size, ranks=everyone)
    create(world, draft, cohort, world.missing)


def send_away(world: World, draft: Draft) -> None:
    """Delete the pods that have not ended; SIGTERM lets them save a checkpoint.

    Rank 0 goes first: told to leave, it stops all ranks after the same step, where any other rank only leaves
    the rest behind.
    """
    delete(draft, (pod for pod in world.of_run if not pod.ended))


def send_away_older_runs(world: World, draft: Draft) -> None:
    """Older runs' pods go altogether, ended or not: only the newest one's logs are kept."""
    delete(draft, (pod for pod in world.pods if pod.run < world.run))


def delete(draft: Draft, pods: Iterable[PodView]) -> None:
    """Delete these pods, but for those that are on their way out already."""
    draft.do(*(DeletePod(namespace=p.namespace, name=p.name, uid=p.uid) for p in pods if not p.deleting))
