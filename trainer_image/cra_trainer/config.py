"""What the pod's environment says, read once and typed.

Two sources: the launcher's variables (torchrun's names, plus ``CRA_*`` for what the operator adds) become
`Env`; the job's spec, handed over as JSON in ``CRA_CONFIG``, becomes `Config`. Both have defaults, so that a
script runs on a laptop with neither. A value that cannot be used raises `ConfigError`, which names the
variable or field and what is expected there. Fields that this package does not act on are ignored: the
operator says so to the user.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

from cra_trainer.allocation.performance import GOOD, POOR

Mode = Literal["max", "min"]
T = TypeVar("T", bool, int, float, str, dict[str, Any], list[Any])

RANK_STRATEGIES = (
    "attention", "uniform", "random", "fixed", "parameters", "data", "round-robin", "priority",
)  # fmt: skip
WEIGHTED = ("fixed", "priority")
LEARNING = ("gradient", "reward")
LAYER_LEARNING = ("none", "reward")
TASK_STRATEGIES = ("uniform", "adaptive", "performance")
LEARNING_RATE_RULES = ("fixed", "linear", "sqrt", "adascale")
OPTIMIZERS = ("sgd", "adam", "adamw", "adagrad", "adafactor")


class ConfigError(ValueError):
    """A variable or a field holds a value that cannot be used; the text names it and what is expected."""


@dataclass(frozen=True, kw_only=True)
class Env:
    """The process's place in its group and in the cluster.

    Attributes:
        launched: Whether a launcher gave the group (``RANK`` is set); if not, the group is this one process.
        generation: Number of the cohort of pods that this process starts with.
        joining: Ranks of that cohort.
        pod: The pod's name.
        metrics_port: Port of the metrics endpoint; None serves none.
        checkpoint_dir: Path or URL where checkpoints are kept; set on rank 0 only, None keeps none.
        termination_log: File for the last words of this process; None writes none.
    """

    launched: bool = False
    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1
    generation: int = 1
    joining: int = 1
    pod: str | None = None
    pod_ip: str | None = None
    metrics_port: int | None = None
    checkpoint_dir: str | None = None
    termination_log: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Target:
    """Training ends once the metric `name` reaches `value` (``max``: from below, ``min``: from above)."""

    name: str
    value: float
    mode: Mode = "max"


@dataclass(frozen=True, kw_only=True)
class EarlyStopping:
    """Training ends after `patience` reports in a row that improve the watched metric by no more than
    `min_delta`.
    """

    patience: int
    min_delta: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Optimizer:
    """Which optimizer `cra_trainer.make_optimizer` builds."""

    name: str = "adam"
    learning_rate: float = 0.001
    weight_decay: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Tracking:
    """``spec.training.tracking``: where curves go."""

    tensorboard: bool = True
    wandb_project: str | None = None


@dataclass(frozen=True, kw_only=True)
class Training:
    """``spec.training``: `batch_size` is the global batch, dealt out over all ranks.

    It is also the batch that the learning rate is meant for; between `min_batch_size` and `max_batch_size`
    the batch adapts. None is `batch_size`.
    """

    epochs: int = 10
    batch_size: int = 64
    min_batch_size: int | None = None
    max_batch_size: int | None = None
    learning_rate_rule: str = "fixed"
    seed: int = 0
    optimizer: Optimizer = field(default_factory=Optimizer)
    target: Target | None = None
    early_stopping: EarlyStopping | None = None
    tracking: Tracking = field(default_factory=Tracking)


@dataclass(frozen=True, kw_only=True)
class RankAllocator:
    """``spec.allocator.ranks``: how the global batch is split over the ranks."""

    strategy: str = "attention"
    heads: int = 4
    learn: Literal["gradient", "reward"] = "gradient"
    weights: tuple[float, ...] = ()
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class LayerAllocator:
    """``spec.allocator.layers``: `compute_budget` is the part of all backward passes that may be spent, and 1
    trains every layer; `learn` says whether rewards tune when the cut waits.
    """

    compute_budget: float = 1.0
    learn: str = "none"


@dataclass(frozen=True, kw_only=True)
class TaskAllocator:
    """``spec.allocator.tasks``: how steps are divided among tasks, and the performance from which on one is
    good, and below which it is poor.
    """

    strategy: str = "uniform"
    good: float = GOOD
    poor: float = POOR


@dataclass(frozen=True, kw_only=True)
class Checkpointing:
    """``spec.checkpoint``: seconds between checkpoints and how many of the newest are kept."""

    interval_seconds: float = 60.0
    keep: int = 3


@dataclass(frozen=True, kw_only=True)
class Config:
    """The job's spec as far as the trainer acts on it.

    Attributes:
        parameters: ``spec.workload.parameters``, or in your own pod template the JSON object of the variable
            ``CRA_PARAMETERS``.
        layers: ``spec.allocator.layers``.
        tasks: ``spec.allocator.tasks``, of models with several tasks.
    """

    parameters: Mapping[str, str] = field(default_factory=dict)
    training: Training = field(default_factory=Training)
    ranks: RankAllocator = field(default_factory=RankAllocator)
    layers: LayerAllocator = field(default_factory=LayerAllocator)
    tasks: TaskAllocator = field(default_factory=TaskAllocator)
    checkpoint: Checkpointing = field(default_factory=Checkpointing)

    def number(self, name: str, default: int) -> int:
        """A workload parameter that is a whole number above 0.

        Raises:
            ConfigError: It is something else.
        """
        text = self.parameters.get(name, str(default))
        if not text.isdecimal() or int(text) == 0:
            raise ConfigError(f"workload.parameters.{name}={text!r}: expected a whole number above 0")
        return int(text)


def read_env(environ: Mapping[str, str] | None = None) -> Env:
    """Read the launcher's and the operator's variables.

    Raises:
        ConfigError: A variable is not a whole number in its range, or rank and size contradict each other.
    """
    environ = os.environ if environ is None else environ

    def number(name: str, default: int, low: int, high: int | None = None) -> int:
        text = environ.get(name, "")
        if not text:
            return default
        try:
            value = int(text)
        except ValueError:
            raise ConfigError(f"{name}={text!r}: expected a whole number") from None
        if value < low or (high is not None and value > high):
            limit = f"at least {low}" if high is None else f"{low} to {high}"
            raise ConfigError(f"{name}={value}: expected {limit}")
        return value

    world_size = number("WORLD_SIZE", 1, 1)
    rank = number("RANK", 0, 0)
    if rank >= world_size:
        raise ConfigError(f"RANK={rank}: expected less than WORLD_SIZE={world_size}")
    # The kubelet makes the file before the container starts; without a kubelet nobody would read it, so none
    # is made.
    log = environ.get("CRA_TERMINATION_LOG") or "/dev/termination-log"
    directory = environ.get("CRA_CHECKPOINT_DIR")
    port = number("CRA_METRICS_PORT", 0, 0, 65535)
    return Env(
        launched="RANK" in environ,
        rank=rank,
        world_size=world_size,
        local_rank=number("LOCAL_RANK", 0, 0),
        local_world_size=number("LOCAL_WORLD_SIZE", 1, 1),
        generation=number("CRA_GENERATION", 1, 0),
        joining=number("CRA_JOINING", world_size, 1, world_size),
        pod=environ.get("CRA_POD") or None,
        pod_ip=environ.get("CRA_POD_IP") or None,
        metrics_port=port or None,
        checkpoint_dir=directory if directory and rank == 0 else None,
        termination_log=Path(log) if "CRA_TERMINATION_LOG" in environ or Path(log).exists() else None,
    )


def read_config(environ: Mapping[str, str] | None = None) -> Config:
    """Read ``CRA_CONFIG``; an unset variable gives the defaults of the CRD.

    Raises:
        ConfigError: The JSON cannot be read, or a field has the wrong type or is out of range.
    """
    environ = os.environ if environ is None else environ
    root = _object(environ, "CRA_CONFIG")
    given = _object(environ, "CRA_PARAMETERS").texts()
    return _config(root, given or root.group("workload").group("parameters").texts())


def _object(environ: Mapping[str, str], name: str) -> _Fields:
    try:
        value = json.loads(environ.get(name) or "{}")
    except ValueError as error:
        raise ConfigError(f"{name}: not JSON ({error})") from None
    if not isinstance(value, dict):
        raise ConfigError(f"{name}: expected an object")
    return _Fields(name, value)


def _config(root: _Fields, parameters: Mapping[str, str]) -> Config:
    training, allocator, checkpoint = (
        root.group("training"),
        root.group("allocator"),
        root.group("checkpoint"),
    )
    ranks, layers = allocator.group("ranks"), allocator.group("layers")
    optimizer = training.group("optimizer")
    tracking = training.group("tracking")
    target, stopping = training.group("targetMetric"), training.group("earlyStopping")
    strategy = ranks.choice("strategy", RANK_STRATEGIES, "attention")
    weights = tuple(ranks.numbers("weights"))
    if (strategy in WEIGHTED) != bool(weights):
        raise ConfigError(
            f"{ranks.path}.weights: needed with strategy {' or '.join(WEIGHTED)}, and only with it"
        )
    if strategy == "priority" and any(weight < 1 or weight != int(weight) for weight in weights):
        raise ConfigError(f"{ranks.path}.weights: expected whole numbers of at least 1 with priority")
    batch = training.get("batchSize", 64, low=1)
    smallest = training.get("minBatchSize", batch, low=1)
    largest = training.get("maxBatchSize", batch, low=1)
    if not smallest <= batch <= largest:
        raise ConfigError(
            f"{training.path}: expected minBatchSize <= batchSize <= maxBatchSize, "
            f"got {smallest}, {batch}, {largest}"
        )
    return Config(
        parameters=parameters,
        training=Training(
            epochs=training.get("epochs", 10, low=1),
            batch_size=batch,
            min_batch_size=smallest,
            max_batch_size=largest,
            learning_rate_rule=training.choice("learningRateRule", LEARNING_RATE_RULES, "fixed"),
            seed=training.get("seed", 0),
            optimizer=Optimizer(
                name=optimizer.choice("name", OPTIMIZERS, "adam"),
                learning_rate=optimizer.get("learningRate", 0.001, low=0.0),
                weight_decay=optimizer.get("weightDecay", 0.0, low=0.0),
            ),
            target=Target(
                name=target.get("name", ""),
                value=target.get("value", 0.0),
                mode=cast(Mode, target.choice("mode", ("max", "min"), "max")),
            )
            if target.values
            else None,
            early_stopping=EarlyStopping(
                patience=stopping.get("patience", 1, low=1),
                min_delta=stopping.get("minDelta", 0.0, low=0.0),
            )
            if stopping.values
            else None,
            tracking=Tracking(
                tensorboard=tracking.get("tensorboard", True),
                wandb_project=tracking.group("wandb").get("project", "") or None,
            ),
        ),
        ranks=RankAllocator(
            strategy=strategy,
            heads=ranks.get("heads", 4, low=1),
            learn=cast(Literal["gradient", "reward"], ranks.choice("learn", LEARNING, "gradient")),
            weights=weights,
            seed=ranks.get("seed", 0),
        ),
        layers=LayerAllocator(
            compute_budget=layers.get("computeBudget", 1.0, low=0.0),
            learn=layers.choice("learn", LAYER_LEARNING, "none"),
        ),
        tasks=_tasks(allocator.group("tasks")),
        checkpoint=Checkpointing(
            interval_seconds=checkpoint.get("intervalSeconds", 60.0, low=0.001),
            keep=checkpoint.get("keep", 3, low=1),
        ),
    )


def _tasks(tasks: _Fields) -> TaskAllocator:
    good, poor = tasks.get("good", GOOD), tasks.get("poor", POOR)
    if poor >= good:
        raise ConfigError(f"{tasks.path}.poor: expected less than good ({good:g}), got {poor:g}")
    return TaskAllocator(strategy=tasks.choice("strategy", TASK_STRATEGIES, "uniform"), good=good, poor=poor)


_EXPECTED = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
    dict: "an object",
    list: "a list",
}


@dataclass(frozen=True)
class _Fields:
    """An object of the JSON, with its path for errors."""

    path: str
    values: Mapping[str, Any]

    def get(self, name: str, default: T, low: float | None = None) -> T:
        """The field as the type of its default; absent and null give the default."""
        value = self.values.get(name)
        if value is None:
            return default
        kind = type(default)
        fits = isinstance(value, (int, float) if kind is float else kind)
        if isinstance(value, bool) != (kind is bool):
            fits = False
        if not fits:
            raise ConfigError(f"{self.path}.{name}: expected {_EXPECTED[kind]}, got {json.dumps(value)}")
        if low is not None and value < low:
            raise ConfigError(f"{self.path}.{name}: expected at least {low}, got {value}")
        return cast(T, float(value) if kind is float else value)

    def group(self, name: str) -> _Fields:
        return _Fields(f"{self.path}.{name}", self.get(name, cast(dict[str, Any], {})))

    def choice(self, name: str, options: tuple[str, ...], default: str) -> str:
        value = self.get(name, default)
        if value not in options:
            raise ConfigError(f"{self.path}.{name}: expected one of {', '.join(options)}, got {value!r}")
        return value

    def numbers(self, name: str) -> list[float]:
        values = self.get(name, [])
        item = _Fields(f"{self.path}.{name}", {str(i): value for i, value in enumerate(values)})
        return [item.get(str(i), 0.0, low=0.0) for i in range(len(values))]

    def texts(self) -> dict[str, str]:
        return {key: self.get(key, "") for key in self.values}
