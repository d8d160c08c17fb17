"""From sizes to the types of GPU of the workers that they bring: the last step of a decision.

Sizes are decided over all GPUs together, each job's prospects knowing what others are worth to it. Here the
GPUs that are free, or about to be, are matched to those who get some.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from cra_operator.api import Job, JobKey
from cra_operator.controller.deciding import Outcome
from cra_operator.controller.facts import Facts
from cra_operator.controller.gpu_types import NOBODY, Usable, Want, Worth, prefer
from cra_operator.controller.sharing import least
from cra_operator.controller.target import Target
from cra_operator.view import NodeView


def with_types(
    outcome: Outcome,
    facts: Sequence[Facts],
    jobs: Mapping[JobKey, Job],
    worth: Mapping[JobKey, Worth],
    at: Mapping[str, NodeView],
    free: Mapping[str, int],
) -> Outcome:
    """What was decided, with the type that new workers had best be on where it matters, and why.

    Jobs that come before the next decision are told the type that is best for somebody unknown, of what the
    others leave.

    Args:
        outcome: What was decided.
        facts: The jobs that it is about.
        jobs: The same.
        worth: What types of GPU are worth to them and to `NOBODY`; empty where all are of one type.
        at: All nodes by name.
        free: GPUs of each node that nobody holds.
    """
    if not worth:
        return outcome
    targets = outcome.targets
    usable = Usable(at, {name: node.gpus for name, node in at.items()})
    coming, wants = Counter[str](), dict[JobKey, Want]()
    for name, gpus in free.items():
        coming[at[name].gpu_type] += max(0, gpus)
    for one in facts:
        more = _more(one, targets[one.key])
        if more < 0:
            coming.update(_leaving(jobs[one.key], -more))
        elif more > 0:
            there = usable.by_type(jobs[one.key])
            values = {kind: value for kind, value in worth[one.key].items() if there.get(kind, 0) > 0}
            wants[one.key] = Want(priority=one.priority, gpus=more, worth=values)
    last = min((want.priority for want in wants.values()), default=0) - 1
    wants[NOBODY] = Want(priority=last, gpus=1, worth=worth[NOBODY])
    preferred = prefer(wants, coming)
    newcomers = preferred.pop(NOBODY, None)
    chosen = {}
    for key, preference in preferred.items():
        target = targets[key]
        text = "; ".join(filter(None, (target.message, preference.message)))
        chosen[key] = replace(target, gpu_type=preference.gpu_type, message=text)
    standing = replace(outcome.standing, gpu_type=newcomers.gpu_type if newcomers is not None else None)
    return replace(outcome, targets={**targets, **chosen}, standing=standing)


def _more(job: Facts, target: Target) -> int:
    """GPUs that the job is about to get; negative for those that it gives up.

    One that cannot change while it trains gets all anew, on whatever is free by then.
    """
    if not job.waits:
        more = target.gpus - job.gpus if target.gpus is not None else 0
        return more if job.elastic else min(0, more)
    # One that waits and is told why has to go on waiting.
    wanted = target.gpus or least(job)
    return min(wanted, job.fits) if job.fits >= least(job) and not target.message else 0


def _leaving(job: Job, gpus: int) -> Counter[str]:
    """Types of the GPUs that a job which shrinks by so many gives back: those of its highest ranks."""
    found = Counter[str]()
    for worker in sorted(job.status.workers, key=lambda worker: -worker.rank):
        if gpus <= 0:
            break
        found[worker.gpu_type or ""] += worker.gpus or 0
        gpus -= worker.gpus or 0
    return found
