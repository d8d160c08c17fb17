"""The pods of a job come and go together: creating a generation, sending it away."""

from __future__ import annotations

from collections.abc import Iterable

from cra_operator import build
from cra_operator.actions import Apply, CreateClaim, CreatePod, DeletePod
from cra_operator.lifecycle.draft import Draft
from cra_operator.sizing import Size
from cra_operator.view import PodView
from cra_operator.world import World


def create(
    world: World, draft: Draft, *, generation: int, size: Size, ranks: Iterable[int], gpu_seconds: float
) -> None:
    """Create these ranks of a generation, and what the pods need beside themselves."""
    claim = build.claim(world.job)
    if claim is not None:
        draft.do(CreateClaim(manifest=claim))
    for rank in ranks:
        manifest = build.pod(
            world.job,
            generation=generation,
            rank=rank,
            size=size,
            image=world.image,
            image_pull_policy=world.image_pull_policy,
            gpu_seconds=gpu_seconds,
        )
        draft.do(CreatePod(manifest=manifest))
    draft.do(Apply(manifest=build.service(world.job)))


def complete(world: World, draft: Draft) -> None:
    """Create what a crash kept from being created with the rest of the generation."""
    before = max((pod.gpu_seconds_before for pod in world.current), default=0.0)
    create(
        world,
        draft,
        generation=world.generation,
        size=world.size,
        ranks=world.missing,
        gpu_seconds=before,
    )


def send_away(world: World, draft: Draft) -> None:
    """Delete the pods that have not ended; SIGTERM lets them save a checkpoint."""
    draft.do(*(_deletion(pod) for pod in world.current if not pod.ended and not pod.deleting))


def send_away_older_generations(world: World, draft: Draft) -> None:
    """Older generations' pods go altogether, ended or not: only the newest one's logs are kept."""
    older = (pod for pod in world.pods if pod.generation < world.generation and not pod.deleting)
    draft.do(*(_deletion(pod) for pod in older))


def _deletion(pod: PodView) -> DeletePod:
    return DeletePod(namespace=pod.namespace, name=pod.name, uid=pod.uid)
