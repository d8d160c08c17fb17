"""The CRATrainingJob as Python types: the only place that spells the names of its fields.

Everything else in the operator speaks snake_case and reads these frozen models; the custom resource
definition is the other spelling of the same thing, and a test holds the two against each other (fields,
defaults, enums). The API server has validated and defaulted what arrives here, so the models do not validate
again: they only give names and types. Fields that a newer definition may bring are ignored on reading.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer
from pydantic.alias_generators import to_camel

GROUP = "cra.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
KIND = "CRATrainingJob"
PLURAL = "cratrainingjobs"
MANAGER = "cra.dev/operator"
"""Value of `spec.managedBy` (and of the events' reporting controller) that means this operator."""

MAX_DECISIONS = 10
MAX_SPEEDS = 16
MAX_AVOIDED_NODES = 64
MAX_GPU_TYPES = 8


def _alias(name: str) -> str:
    """`min_gpus` is `minGPUs` on the wire, everything else plain camelCase."""
    return to_camel(name).replace("Gpus", "GPUs") if name != "gpus" else name


class Model(BaseModel):
    """Base of all parts of a job: frozen, camelCase on the wire."""

    model_config = ConfigDict(frozen=True, extra="ignore", alias_generator=_alias, populate_by_name=True)

    def wire(self) -> dict[str, Any]:
        """The object as the API server spells it, without what is unset."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


def _truncate(value: Any) -> Any:
    return value.replace(microsecond=0) if isinstance(value, datetime) else value


def _spell_time(value: datetime) -> str:
    return value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


Time = Annotated[datetime, BeforeValidator(_truncate), PlainSerializer(_spell_time, return_type=str)]
"""A moment with the API's resolution of one second."""

Workload = Literal[
    "digits-cnn", "attention-28x28", "rnn-signal", "char-transformer",
    "fine-tune", "multi-task", "continual", "infer",
]  # fmt: skip
Policy = Literal[
    "static", "uniform", "random", "round-robin", "priority", "goodput",
    "q-learning", "sarsa", "double-dqn", "ppo", "attention",
]  # fmt: skip
Mode = Literal["Auto", "Recommend", "Off"]
Stragglers = Literal["Report", "Replace"]
RankStrategy = Literal[
    "attention", "uniform", "random", "fixed", "parameters", "data", "round-robin", "priority"
]
Learning = Literal["gradient", "reward"]
LayerLearning = Literal["none", "reward"]
TaskStrategy = Literal["uniform", "adaptive", "performance"]
OptimizerName = Literal["sgd", "adam", "adamw", "adagrad", "adafactor"]
LearningRateRule = Literal["fixed", "linear", "sqrt", "adascale"]
Extremum = Literal["max", "min"]
Phase = Literal[
    "Pending",
    "Starting",
    "Running",
    "Rescaling",
    "Restarting",
    "Suspending",
    "Suspended",
    "Succeeded",
    "Failed",
]
ConditionType = Literal[
    "Admitted", "Running", "Rescaling", "Suspended", "MetricsAvailable", "Degraded", "Succeeded", "Failed"
]


class WorkloadSpec(Model):
    """A workload that comes with the trainer image."""

    name: Workload
    parameters: dict[str, str] = {}


class ScalingSpec(Model):
    """How many GPUs the job may hold and who decides."""

    min_gpus: int = 1
    max_gpus: int
    gpus: int | None = None
    gpus_per_worker: int | str = 1
    policy: Policy | None = None
    mode: Mode = "Auto"
    cooldown_seconds: int = 60
    elastic: bool | None = None
    stragglers: Stragglers = "Report"


class ObjectiveSpec(Model):
    """Weights of speed (alpha) and of thrift (beta) in the reward."""

    alpha: float = 1
    beta: float = 1


class RanksSpec(Model):
    """How the batch is shared among ranks."""

    strategy: RankStrategy = "attention"
    heads: int = 4
    learn: Learning = "gradient"
    weights: list[float] | None = None
    seed: int = 0


class LayersSpec(Model):
    """How much of the backward pass is computed."""

    compute_budget: float = 1
    learn: LayerLearning = "none"


class TasksSpec(Model):
    """How steps are divided among tasks, and the performance that is good, and poor."""

    strategy: TaskStrategy = "uniform"
    good: float = 0.9
    poor: float = 0.5


class AllocatorSpec(Model):
    """The attention-weighted allocator, by what it allocates to."""

    ranks: RanksSpec = RanksSpec()
    layers: LayersSpec = LayersSpec()
    tasks: TasksSpec = TasksSpec()


class TargetMetric(Model):
    """Training ends when this metric reaches this value."""

    name: str
    value: float
    mode: Extremum = "max"


class OptimizerSpec(Model):
    """The optimizer and its rates."""

    name: OptimizerName = "adam"
    learning_rate: float = 0.001
    weight_decay: float = 0


class EarlyStopping(Model):
    """Training ends after `patience` epochs without a gain of `min_delta`."""

    patience: int
    min_delta: float = 0


class WandbSpec(Model):
    """Where runs are tracked."""

    project: str
    secret_name: str


class TrackingSpec(Model):
    """Where the training's curves go."""

    tensorboard: bool = True
    wandb: WandbSpec | None = None


class TrainingSpec(Model):
    """What the trainer does, whatever the size of the job."""

    epochs: int = 10
    target_metric: TargetMetric | None = None
    batch_size: int = 64
    min_batch_size: int | None = None
    max_batch_size: int | None = None
    optimizer: OptimizerSpec = OptimizerSpec()
    learning_rate_rule: LearningRateRule = "fixed"
    early_stopping: EarlyStopping | None = None
    seed: int = 0
    tracking: TrackingSpec = TrackingSpec()


class VolumeSpec(Model):
    """An existing claim by name, or the size and class of one that the operator makes."""

    claim_name: str | None = None
    size: str | None = None
    storage_class_name: str | None = None


class CheckpointSpec(Model):
    """How often checkpoints are written, how many are kept and where."""

    interval_seconds: int = 60
    keep: int = 3
    url: str | None = None
    volume: VolumeSpec | None = None


class JobSpec(Model):
    """What the user asks for."""

    workload: WorkloadSpec | None = None
    template: dict[str, Any] | None = None
    scaling: ScalingSpec
    objective: ObjectiveSpec = ObjectiveSpec()
    allocator: AllocatorSpec = AllocatorSpec()
    training: TrainingSpec = TrainingSpec()
    checkpoint: CheckpointSpec = CheckpointSpec()
    suspend: bool = False
    priority_class_name: str | None = None
    queue: str | None = None
    backoff_limit: int = 3
    active_deadline_seconds: int | None = None
    startup_deadline_seconds: int = 600
    ttl_seconds_after_finished: int | None = None
    managed_by: str | None = None

    @property
    def elastic(self) -> bool:
        """Whether pods may join and leave while training goes on: as told, else true of workloads."""
        told = self.scaling.elastic
        return self.workload is not None if told is None else told


class Condition(Model):
    """One aspect of the job's state, as `metav1.Condition`."""

    type: ConditionType
    status: Literal["True", "False", "Unknown"]
    observed_generation: int | None = None
    last_transition_time: Time
    reason: str
    message: str = ""


class Display(Model):
    """The printer columns, ready to print."""

    phase: str | None = None
    gpus: str | None = None
    progress: str | None = None
    eta: str | None = None
    utilization: str | None = None
    reward: str | None = None


class RunStatus(Model):
    """The present run: the pods that share one training in memory since it started from a checkpoint."""

    gpus: int | None = None
    joining: int | None = None
    missed_gpus: int | None = None
    setbacks: int | None = None
    avoided_nodes: list[str] | None = None
    replaced_time: Time | None = None


class WorkerStatus(Model):
    """One pod that trains. Shares and weights are fractions of 1; performance is samples/s."""

    rank: int
    pod: str | None = None
    node: str | None = None
    gpus: int | None = None
    gpu_type: str | None = None
    share: float | None = None
    weight: float | None = None
    performance: float | None = None


class Progress(Model):
    """How far training is; `ratio` is in 0..1, `eta_seconds` the trainer's own estimate, and
    `scale_invariant_steps` what its steps were worth, in steps of the job's own batch.
    """

    epoch: int | None = None
    epochs: int | None = None
    step: int | None = None
    ratio: float | None = None
    samples_per_second: float | None = None
    loss: float | None = None
    eta_seconds: float | None = None
    samples: int | None = None
    scale_invariant_steps: float | None = None


class Speed(Model):
    """How long an optimizer step took at one size and batch."""

    gpus: int
    nodes: int
    gpu_type: str | None = None
    batch_size: int
    step_seconds: float
    compute_seconds: float | None = None
    time: Time | None = None


class TypeSpeed(Model):
    """How many samples a second one GPU of a type computes for the job."""

    gpu_type: str
    samples_per_second: float
    time: Time | None = None


class Decision(Model):
    """A change of size with its reason; `applied` is False where it was only recommended."""

    from_: int = Field(alias="from")
    to: int
    reason: str
    message: str | None = None
    policy: str | None = None
    gpu_type: str | None = None
    weight: float | None = None
    expected_gain: float | None = None
    applied: bool | None = None
    time: Time | None = None


class CheckpointStatus(Model):
    """The newest checkpoint known."""

    step: int | None = None
    time: Time | None = None


class RankResult(Model):
    """What one rank did in the end."""

    rank: int
    share: float | None = None
    weight: float | None = None
    performance: float | None = None
    samples_per_second: float | None = None


class ClassResult(Model):
    """How one class of a classifier fared in the last report."""

    name: str
    precision: float | None = None
    recall: float | None = None
    f1: float | None = None
    support: int | None = None


class ErrorResult(Model):
    """The first real failure: who, what and where."""

    rank: int | None = None
    pod: str | None = None
    reason: str | None = None
    message: str | None = None
    where: str | None = None


class Result(Model):
    """The outcome of a finished job, or the last failure of one that goes on."""

    metrics: dict[str, float] | None = None
    samples_per_second: float | None = None
    samples: int | None = None
    steps: int | None = None
    seconds: float | None = None
    checkpoint: str | None = None
    ranks: list[RankResult] | None = None
    classes: list[ClassResult] | None = None
    error: ErrorResult | None = None


class JobStatus(Model):
    """What the operator says; it keeps no other memory of a job."""

    phase: Phase | None = None
    observed_generation: int | None = None
    conditions: list[Condition] = []
    message: str | None = None
    display: Display | None = None
    gpus: int | None = None
    desired_gpus: int | None = None
    recommended_gpus: int | None = None
    policy: str | None = None
    selector: str | None = None
    generation: int | None = None
    run: RunStatus | None = None
    workers: list[WorkerStatus] = []
    progress: Progress | None = None
    utilization: float | None = None
    reward: float | None = None
    batch_size: int | None = None
    noise_scale: float | None = None
    speeds: list[Speed] = []
    gpu_types: list[TypeSpeed] = []
    last_decision: Decision | None = None
    decisions: list[Decision] = []
    rescales: int | None = None
    restarts: int | None = None
    failures: int | None = None
    gpu_seconds: float | None = None
    gpu_seconds_time: Time | None = None
    pause_seconds: float | None = None
    start_time: Time | None = None
    running_time: Time | None = None
    completion_time: Time | None = None
    last_checkpoint: CheckpointStatus | None = None
    queue_position: int | None = None
    start_estimate: Time | None = None
    retry_after: Time | None = None
    result: Result | None = None

    def condition(self, kind: ConditionType) -> Condition | None:
        """The condition of this type, if it was ever set."""
        for condition in self.conditions:
            if condition.type == kind:
                return condition
        return None

    def is_true(self, kind: ConditionType) -> bool:
        """Whether the condition of this type is set and true."""
        found = self.condition(kind)
        return found is not None and found.status == "True"


class Metadata(Model):
    """The part of the metadata that the operator reads."""

    name: str
    namespace: str
    uid: str = ""
    generation: int = 1
    resource_version: str = ""
    creation_timestamp: Time
    deletion_timestamp: Time | None = None


class Job(Model):
    """A CRATrainingJob as last read."""

    metadata: Metadata
    spec: JobSpec
    status: JobStatus = JobStatus()

    @property
    def key(self) -> tuple[str, str]:
        """(namespace, name): how every part of the operator names a job."""
        return self.metadata.namespace, self.metadata.name


JobKey = tuple[str, str]
