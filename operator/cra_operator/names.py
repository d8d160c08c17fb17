"""Names that the operator gives to things: children, labels, annotations, ports and paths.

A pod's name says everything that makes it unique (job, generation, rank), so creating it twice is refused by
the API server: that refusal is what makes every start of a generation safe to repeat.
"""

from __future__ import annotations

APP = "cra-operator"
FIELD_MANAGER = APP

JOB_LABEL = "cra.dev/job"
RANK_LABEL = "cra.dev/rank"
GENERATION_LABEL = "cra.dev/generation"
APP_LABEL = "app.kubernetes.io/name"
MANAGED_BY_LABEL = "app.kubernetes.io/managed-by"
TRAINER_APP = "cra-trainer"

WORKERS_ANNOTATION = "cra.dev/workers"
"""How many pods the pod's generation has: the one fact about a generation that must outlive the operator."""
GPU_SECONDS_ANNOTATION = "cra.dev/gpu-seconds-before"
"""GPU-seconds that earlier generations burnt, so that the total is a function of what the cluster holds."""

GPU_RESOURCE = "nvidia.com/gpu"
GPU_PRODUCT_LABEL = "nvidia.com/gpu.product"

TRAINER_CONTAINER = "trainer"
MASTER_PORT = 29500
METRICS_PORT = 8080
METRICS_PORT_NAME = "metrics"
CHECKPOINT_DIR = "/cra/checkpoint"
CHECKPOINT_VOLUME = "cra-checkpoint"


def pod_name(job: str, generation: int, rank: int) -> str:
    """Name and hostname of the pod of this rank."""
    return f"{job}-{generation}-{rank}"


def claim_name(job: str) -> str:
    """Name of the checkpoint claim that the operator makes."""
    return f"{job}-checkpoint"


def selector(job: str) -> str:
    """Label selector of the job's pods, as `/scale` shows it."""
    return f"{JOB_LABEL}={job}"
