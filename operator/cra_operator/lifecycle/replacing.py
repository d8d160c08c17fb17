"""A worker that is slow for good gives its place to a pod on another node, while the others train on.

It leaves like a worker of a run that shrinks: off the list first, deleted then, so it says that it goes and
no sample is lost. What fills its place is what fills that of a worker that was lost, but away from the nodes
where workers were slow. If these turn out to be all there are, any node will do.
"""

from __future__ import annotations

from cra_operator.lifecycle import gang
from cra_operator.lifecycle.draft import Draft
from cra_operator.lifecycle.measured import note_strength
from cra_operator.lifecycle.words import count
from cra_operator.view import PodView
from cra_operator.world import World

REASON = "ReplacingStraggler"


def send_away(world: World, draft: Draft, pod: PodView) -> None:
    """Another node has room: this worker leaves."""
    workers = [worker for worker in draft.get("workers") if worker.pod != pod.name]
    draft.set(workers=workers)
    draft.set_run(avoided_nodes=list(world.slow_nodes), replaced_time=draft.now)
    message = (
        f"training goes on with {len(workers)} of {count(world.size.workers, 'worker')}: rank {pod.rank} "
        f"(pod {pod.name} on {pod.node}) was slow for good, and another pod takes its place on another node"
    )
    draft.condition("Degraded", True, REASON, message)
    draft.tell(REASON, message, warning=True)
    note_strength(draft, world.size, f"{pod.name} was slow for good")
    gang.delete(draft, [pod])
    draft.look_again(draft.now)


def take_any_node(draft: Draft) -> None:
    """No other node has room any more: a slow one is better than none."""
    draft.set_run(avoided_nodes=None)
    draft.look_again(draft.now)
