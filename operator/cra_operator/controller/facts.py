"""What a decision about sizes depends on beside the measurements: one flat value for each unfinished job.

Everything is read off the job itself, so an operator that has just started knows as much as the one before.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise

from cra_operator.api import Job, JobKey, Policy, ScalingSpec
from cra_operator.sizing import gpus_per_worker, wanted

_AT_REST = ("Suspending", "Suspended")
_AT_WORK = ("Starting", "Running", "Rescaling")
_FINISHED = ("Succeeded", "Failed")
GROWTH_PAYS, FASTER_SMALLER = "GrowthPays", "FasterSmaller"
"""Reasons of the changes that a job makes for its own sake."""
STARTUP_SECONDS = 30.0
"""What pods are taken to need until they train, until it was measured."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """One job.

    Attributes:
        key: The job.
        queue: The queue that its GPU-hours are charged to: `spec.queue`, else its namespace.
        policy: Who decides its size.
        priority: Value of its priority class.
        decides: Whether a policy decides its size at all; otherwise it has what it is told.
        acts: Whether what a policy decides is also done.
        waits: Whether it has no run at work and wants one.
        ran: Whether it ever had one.
        changes: Whether it starts, or its size changes just now.
        measured: Whether its metrics are there and fresh.
        known: Whether its speed at its present size was measured.
        elastic: Whether it can change while it trains.
        each: GPUs of one worker.
        lowest: Fewest GPUs that it may have, in whole workers.
        highest: Most of them.
        gpus: GPUs of its run, those included that are about to join; of one that waits, what it would start
            with if nobody decided.
        fits: Of one that waits, GPUs in whole workers that are free, or about to be, on nodes that admit its
            pods.
        cooldown: Seconds after a change in which no other may follow.
        moved: Seconds since the last change of size was carried out or taken back, None if there was none.
        turns: How often it lately went back and forth for its own sake.
        taken_back: How often in a row new pods had to be taken back.
        pause: Seconds that training stands still for a change.
        startup: Seconds from the creation of pods until they train.
        unsaved: Seconds of training that a restart may have to repeat, those since the last checkpoint; 0 for
            a job that changes while it trains.
        eta: Seconds until it ends as things are, by its own estimate; None if not known.
        age: Seconds since it was created.
    """

    key: JobKey
    queue: str
    policy: str
    priority: int
    decides: bool
    acts: bool
    waits: bool
    ran: bool
    changes: bool
    measured: bool
    known: bool
    elastic: bool
    each: int
    lowest: int
    highest: int
    gpus: int
    fits: int
    cooldown: float
    moved: float | None
    turns: int
    taken_back: int
    pause: float
    startup: float
    unsaved: float
    eta: float | None
    age: float


def queue_of(job: Job) -> str:
    """What a job's GPU-hours are charged to: its queue, else its namespace."""
    return job.spec.queue or job.metadata.namespace


def takes_part(job: Job) -> bool:
    """Whether the job has GPUs or wants some."""
    return job.status.phase not in (*_FINISHED, *_AT_REST) and not job.spec.suspend


def waits(job: Job) -> bool:
    """Whether the job has no run at work."""
    return job.status.phase not in _AT_WORK


def decides(scaling: ScalingSpec, default: Policy) -> bool:
    """Whether a policy decides the size, be it that nobody acts on it."""
    return scaling.gpus is None and scaling.mode != "Off" and (scaling.policy or default) != "static"


def facts_of(job: Job, *, default: Policy, priority: int, fits: int, now: datetime) -> Facts:
    """The facts of a job that takes part.

    Args:
        job: The job.
        default: The policy of jobs that name none.
        priority: Value of its priority class.
        fits: GPUs that are free for its pods, if it waits.
        now: The current time.
    """
    spec, status = job.spec, job.status
    scaling, run = spec.scaling, status.run
    policy = scaling.policy or default
    each = gpus_per_worker(scaling)
    joining = run is not None and run.joining is not None
    settled = run is not None and not waits(job) and not joining and status.phase != "Rescaling"
    gpus = (run.gpus if run is not None and settled else None) or wanted(
        scaling, None, status.desired_gpus
    ).gpus
    return Facts(
        key=job.key,
        queue=queue_of(job),
        policy=policy,
        priority=priority,
        decides=decides(scaling, default),
        acts=scaling.mode == "Auto",
        waits=waits(job),
        ran=status.generation is not None,
        changes=status.phase in ("Starting", "Rescaling") or joining or status.is_true("Rescaling"),
        measured=status.is_true("MetricsAvailable"),
        known=gpus in [speed.gpus for speed in status.speeds],
        elastic=spec.elastic,
        each=each,
        lowest=-(-scaling.min_gpus // each) * each,
        highest=max(scaling.max_gpus // each, 1) * each,
        gpus=gpus,
        fits=fits,
        cooldown=float(scaling.cooldown_seconds),
        moved=_moved(job, now),
        turns=_turns(job),
        taken_back=(run.setbacks or 0) if run is not None else 0,
        pause=status.pause_seconds or 0.0,
        startup=startup_seconds(job),
        unsaved=_unsaved(job, now),
        eta=status.progress.eta_seconds if status.progress is not None else None,
        age=max(0.0, (now - job.metadata.creation_timestamp).total_seconds()),
    )


def _moved(job: Job, now: datetime) -> float | None:
    """How long ago the last change of size came to its end."""
    moves = [d.time for d in job.status.decisions if d.time is not None and d.applied is not False]
    if not moves:
        return None
    changed = job.status.condition("Rescaling")
    ended = changed.last_transition_time if changed is not None else moves[-1]
    return (now - max(moves[-1], ended)).total_seconds()


def _unsaved(job: Job, now: datetime) -> float:
    """Seconds since the newest checkpoint, or since training began."""
    status = job.status
    saved = status.last_checkpoint.time if status.last_checkpoint is not None else None
    since = saved or status.running_time
    return 0.0 if job.spec.elastic or since is None else max(0.0, (now - since).total_seconds())


def _turns(job: Job) -> int:
    """Changes of direction among the decisions that are remembered, without those that served other jobs."""
    own = [d.reason for d in job.status.decisions if d.applied and d.reason in (GROWTH_PAYS, FASTER_SMALLER)]
    return sum(before != after for before, after in pairwise(own))


def startup_seconds(job: Job) -> float:
    """How long the job's first pods took to train."""
    start, running = job.status.start_time, job.status.running_time
    # NB: a time at rest moves the start along, so that it may lie behind the first training.
    return (running - start).total_seconds() if start and running and running > start else STARTUP_SECONDS
