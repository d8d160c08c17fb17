"""Everything that makes a training go on where it stopped, gathered and restored in one place.

Random numbers are not in it: they are seeded anew for every step from the seed, the step and the rank
(`seed_step`), so they follow from the cursor, for every rank and at every world size, and a restored run
draws what the uninterrupted one would have drawn.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from cra_trainer.allocation.layers import LayerCut
from cra_trainer.allocation.ranks import RankPlanner
from cra_trainer.batching import Batching
from cra_trainer.checkpoint import State, snapshot
from cra_trainer.data import Cursor, mix
from cra_trainer.elastic.roster import Standing
from cra_trainer.holding import Holding
from cra_trainer.progress import Goal


class Stateful(Protocol):
    """Anything with a state of tensors and plain values: a scheduler, a scaler, an averaged model."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: dict[str, Any], /) -> Any: ...


@dataclass(frozen=True, kw_only=True)
class Position:
    """Where the training is, apart from what torch objects hold.

    Attributes:
        reported: Reports that are made of this epoch.
        classes: What the last report of a classification counted, by class.
        seconds: Time spent in steps so far.
    """

    cursor: Cursor = field(default_factory=Cursor)
    reported: int = 0
    goal: Goal = field(default_factory=Goal)
    metrics: Mapping[str, float] = field(default_factory=dict)
    classes: Mapping[str, list[float]] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def standing(self) -> Standing:
        """How far this is, for comparison: of ranks that were parted by a loss, who has completed more."""
        return (self.cursor.step, self.cursor.epoch, self.reported)

    def next_epoch(self) -> Position:
        """At the start of the epoch after this one."""
        return replace(self, cursor=self.cursor.next_epoch(), reported=0)


@dataclass(frozen=True, kw_only=True)
class Parts:
    """The objects that hold state: the user's model (not its DDP), optimizer and what else was prepared, and
    how the ranks hold the first two.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    extras: Mapping[str, Stateful]
    planner: RankPlanner
    batching: Batching
    layers: LayerCut | None = None
    holding: Holding = field(default_factory=Holding)


def live(parts: Parts, position: Position) -> State:
    """The state as it is: training goes on to change the tensors in it."""
    return {
        "model": parts.model.state_dict(),
        "optimizer": parts.optimizer.state_dict(),
        "extras": {name: extra.state_dict() for name, extra in parts.extras.items()},
        "batching": parts.batching.state_dict(),
        "planner": parts.planner.state_dict(),
        "layers": parts.layers.state_dict() if parts.layers else {},
        "position": asdict(position),
    }


def gather(parts: Parts, position: Position, spare: State | None = None) -> State:
    """A snapshot in host memory, in that of a `spare` one where it fits.

    Raises:
        ShardsLost: A rank is gone whose part of the model is needed.
        StateError: Something that was prepared has a state that could not be loaded again.
    """
    spares, parts_now = spare or {}, live(parts, position)
    with parts.holding.guard():
        return {name: snapshot(part, name, spare=spares.get(name)) for name, part in parts_now.items()}


def check(parts: Parts) -> None:
    """Find out before the first step what could not be saved after it.

    Raises:
        StateError: As `gather` would.
    """
    for name, extra in parts.extras.items():
        snapshot(extra.state_dict(), name)


def restore(state: State, parts: Parts) -> Position:
    """Put a state back into the objects; returns the position.

    Raises:
        ValueError: The state is of another script: other names, shapes or parts.
    """
    try:
        parts.model.load_state_dict(state["model"])
        parts.optimizer.load_state_dict(state["optimizer"])
        if state["extras"].keys() != parts.extras.keys():
            raise KeyError(f"it holds {sorted(state['extras'])}, the script prepared {sorted(parts.extras)}")
        for name, extra in parts.extras.items():
            extra.load_state_dict(state["extras"][name])
        parts.batching.load_state_dict(state["batching"])
        parts.planner.rebatch(parts.batching.size)
        parts.planner.load_state_dict(state["planner"])
        if parts.layers and state["layers"]:
            parts.layers.load_state_dict(state["layers"])
    except (KeyError, RuntimeError, ValueError) as error:
        raise ValueError(f"the checkpoint does not fit this script: {error}") from error
    saved = state["position"]
    return Position(
        cursor=Cursor(**saved["cursor"]),
        reported=saved["reported"],
        goal=Goal(**saved["goal"]),
        metrics=saved["metrics"],
        classes=saved["classes"],
        seconds=saved["seconds"],
    )


@dataclass(frozen=True)
class Undo:
    """What a script may change after a step, as it was before: for a step that turned out not to be one."""

    rates: list[dict[str, Any]]
    extras: dict[str, Any]

    @classmethod
    def of(cls, parts: Parts) -> Undo:
        """Remember it."""
        rates = [
            {name: value for name, value in group.items() if name != "params"}
            for group in parts.optimizer.param_groups
        ]
        extras = {name: extra.state_dict() for name, extra in parts.extras.items()}
        return cls(snapshot(rates, "optimizer"), snapshot(extras, "extras"))

    def restore(self, parts: Parts) -> None:
        """Put it back."""
        for group, rates in zip(parts.optimizer.param_groups, self.rates, strict=True):
            group.update(rates)
        for name, extra in parts.extras.items():
            extra.load_state_dict(self.extras[name])


def seed_step(seed: int, *, step: int, rank: int) -> None:
    """Seed torch, Python and NumPy for one step of one rank."""
    value = mix(seed, step, rank)
    # torch.manual_seed formats a stack trace as long as CUDA is not in use: 0.1 ms that a step on a CPU need
    # not pay.
    torch.default_generator.manual_seed(value >> 1)
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.manual_seed_all(value >> 1)
    random.seed(value)
    np.random.seed(value % 2**32)
