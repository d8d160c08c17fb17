"""What a trainer says with its last breath: the termination message, read with care.

The message is written by a process that may be dying, may be truncated by the kubelet and, for a plain
script, is merely the end of its log. So nothing is taken on trust: whatever does not parse or has the wrong
type is left out.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pydantic import ValidationError

from cra_operator.api import ClassResult, Model, Progress, RankResult

M = TypeVar("M", bound=Model)

CHECKPOINT_FAILED = "CheckpointFailed"
"""Reason for a training that could not be saved."""


@dataclass(frozen=True, kw_only=True)
class TrainerError:
    """An exception of the script: its type, text, place (`file.py:12 in fn`) and global rank."""

    type: str = ""
    message: str = ""
    where: str = ""
    rank: int | None = None


@dataclass(frozen=True, kw_only=True)
class Report:
    """A parsed termination message.

    Attributes:
        outcome: `succeeded`, `left`, `peer-lost`, `failed`, or empty where the message is not ours.
        progress: Progress at the end.
        metrics: Final metrics by name.
        samples_per_second: Global throughput over the run.
        seconds: Length of the run.
        ranks: The last shares, weights and speeds.
        classes: How each class of a classifier fared.
        checkpoint_step: Step of the last checkpoint.
        checkpoint_path: Its path or URL.
        checkpoint_failure: Why a later one could not be written.
        error: What went wrong.
    """

    outcome: str = ""
    progress: Progress | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    samples_per_second: float | None = None
    seconds: float | None = None
    ranks: tuple[RankResult, ...] = ()
    classes: tuple[ClassResult, ...] = ()
    checkpoint_step: int | None = None
    checkpoint_path: str | None = None
    checkpoint_failure: str | None = None
    error: TrainerError | None = None


def parse(message: str) -> Report | None:
    """Read a termination message; None if it is not a JSON object, as for a plain script."""
    try:
        raw = json.loads(message)
    except ValueError:
        return None
    if not isinstance(raw, dict):
        return None
    checkpoint = _mapping(raw.get("checkpoint"))
    step, path, failure = _number(checkpoint.get("step")), checkpoint.get("path"), checkpoint.get("failure")
    metrics = ((str(name), _number(value)) for name, value in _mapping(raw.get("metrics")).items())
    ranks = (_model(RankResult, rank) for rank in _sequence(raw.get("ranks")))
    classes = (_model(ClassResult, one) for one in _sequence(raw.get("classes")))
    return Report(
        outcome=str(raw.get("outcome") or ""),
        progress=_model(Progress, raw.get("progress")),
        metrics={name: value for name, value in metrics if value is not None},
        samples_per_second=_number(raw.get("samplesPerSecond")),
        seconds=_number(raw.get("seconds")),
        ranks=tuple(rank for rank in ranks if rank is not None),
        classes=tuple(one for one in classes if one is not None),
        checkpoint_step=None if step is None else int(step),
        checkpoint_path=path if isinstance(path, str) else None,
        checkpoint_failure=failure if isinstance(failure, str) else None,
        error=_error(raw.get("error")),
    )


def _error(raw: Any) -> TrainerError | None:
    if not isinstance(raw, dict):
        return None
    rank = _number(raw.get("rank"))
    return TrainerError(
        type=str(raw.get("type") or ""),
        message=str(raw.get("message") or ""),
        where=str(raw.get("where") or ""),
        rank=None if rank is None else int(rank),
    )


def _model(model: type[M], raw: Any) -> M | None:
    try:
        return model.model_validate(raw)
    except ValidationError:
        return None


def _mapping(raw: Any) -> Mapping[str, Any]:
    return raw if isinstance(raw, dict) else {}


def _sequence(raw: Any) -> list[Any]:
    return raw if isinstance(raw, list) else []


def _number(raw: Any) -> float | None:
    """A finite number, or None: NaN and infinity have no JSON, so the API server would refuse them."""
    usable = isinstance(raw, int | float) and not isinstance(raw, bool) and math.isfinite(raw)
    return float(raw) if usable else None
