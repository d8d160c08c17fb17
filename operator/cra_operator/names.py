"""Names that the operator gives to things: children, labels, annotations, ports and paths.

A pod's name says everything that makes it unique (job, generation, rank), so creating it twice is refused by
the API server: that refusal is what makes the creation of any set of pods safe to repeat.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

APP = "cra-operator"
FIELD_MANAGER = APP
LEARNED = f"{APP}-learned"
"""The ConfigMap with what policies have learned online."""

JOB_LABEL = "cra.dev/job"
RANK_LABEL = "cra.dev/rank"
GENERATION_LABEL = "cra.dev/generation"
RUN_LABEL = "cra.dev/run"
"""The generation with which the pod's run began; its leader is rank 0 of that generation."""
APP_LABEL = "app.kubernetes.io/name"
MANAGED_BY_LABEL = "app.kubernetes.io/managed-by"
TRAINER_APP = "cra-trainer"

WORKERS_ANNOTATION = "cra.dev/workers"
"""How many pods the run has once the pod's generation takes part."""
JOINING_ANNOTATION = "cra.dev/joining"
"""The ranks of a generation that joins a run, such as `2,5-7`; absent on the generation that begins one. With
the number of workers it says what must outlive an operator that dies while it creates pods."""

GPU_RESOURCE = "nvidia.com/gpu"
GPU_PRODUCT_LABEL = "nvidia.com/gpu.product"

TRAINER_CONTAINER = "trainer"
MASTER_PORT = 29500
METRICS_PORT = 8080
METRICS_PORT_NAME = "metrics"
CHECKPOINT_DIR = "/cra/checkpoint"
CHECKPOINT_VOLUME = "cra-checkpoint"

_RANKS = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?")


def pod_name(job: str, generation: int, rank: int) -> str:
    """Name and hostname of the pod of this rank."""
    return f"{job}-{generation}-{rank}"


def spell_ranks(ranks: Sequence[int]) -> str:
    """Rising ranks as text: `2,5-7`."""
    spans: list[list[int]] = []
    for rank in ranks:
        if spans and rank == spans[-1][1] + 1:
            spans[-1][1] = rank
        else:
            spans.append([rank, rank])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in spans)


def read_ranks(text: str) -> tuple[int, ...]:
    """The reverse of `spell_ranks`; nothing where the text is none of its.

    NB: annotations can be written by others than the operator.
    """
    spans = [_RANKS.fullmatch(span) for span in text.split(",")]
    found: set[int] = set()
    for span in spans:
        if span is None:
            return ()
        found |= set(range(int(span[1]), int(span[2] or span[1]) + 1))
    return tuple(sorted(found))


def claim_name(job: str) -> str:
    """Name of the checkpoint claim that the operator makes."""
    return f"{job}-checkpoint"


def selector(job: str) -> str:
    """Label selector of the job's pods, as `/scale` shows it."""
    return f"{JOB_LABEL}={job}"
