"""From what is to what is to be done: the life of a job as one pure function.

`reconcile` is called whenever anything about a job may have changed, with everything there is to know, and
answers with a new status and the actions that lead to it. It may be called too often, after a crash or with
the same input again: it never relies on having seen an event.

The status is the only memory. Its phase says what the operator is about:

* *settled* phases (Pending, Restarting, Suspended) have no run at work. Pods that still live are sent away;
  when the last is gone, the wait is over and there is room, the next run starts.
* *active* phases (Starting, Running, Rescaling, Suspending) have one. The pods that begin it are created
  together. One that breaks ends the run, whose cause of death is counted and written down in the same breath
  as the phase is settled, so a failure is never counted twice. An elastic run that trains survives the loss
  of any pod but its leader, and pods join and leave it (`lifecycle.live`).
* *finished* phases (Succeeded, Failed) keep the pods that ended, for their logs, until the job is deleted.

Pods of a generation that the status does not know were created just before a crash: they begin a run, and
their job is starting, or they are about to join one.
"""

from __future__ import annotations

from cra_operator import names
from cra_operator.actions import Plan
from cra_operator.lifecycle import ending, gang, measured, resizing, waiting, working
from cra_operator.lifecycle.draft import Draft
from cra_operator.lifecycle.notices import not_effective
from cra_operator.world import ACTIVE, FINISHED, World, is_ours


def reconcile(world: World) -> Plan:
    """Decide the next step of one job."""
    if not is_ours(world.job):
        return Plan(status=world.job.status)
    draft = Draft(world.job, world.now)
    gang.send_away_older_runs(world, draft)
    measured.note_pods(world, draft)
    if world.phase in FINISHED:
        ending.keep_until_deleted(world, draft)
        return draft.plan()
    _announce_what_has_no_effect(world, draft)
    status = world.job.status
    draft.set(
        selector=names.selector(world.job.metadata.name),
        generation=world.generation,
        rescales=status.rescales or 0,
        restarts=status.restarts or 0,
        failures=status.failures or 0,
    )
    if world.phase in ACTIVE:
        working.tend_run(world, draft)
    else:
        waiting.start_or_wait(world, draft)
    resizing.note_advice(world, draft)
    return draft.plan()


def _announce_what_has_no_effect(world: World, draft: Draft) -> None:
    ignored = not_effective(world.job.spec)
    if ignored and world.job.status.observed_generation != world.job.metadata.generation:
        draft.tell("NotEffective", "without effect in this release: " + ", ".join(ignored), warning=True)
