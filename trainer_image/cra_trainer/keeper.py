"""Keeps the training in checkpoints, and takes it up again from them."""

from __future__ import annotations

import logging
import time
from typing import Any

from torch import nn

from cra_trainer import config, state
from cra_trainer.checkpoint import Checkpoints, parse
from cra_trainer.process import Process

log = logging.getLogger("cra_trainer")

# A message of 4096 bytes has more to say than one error.
_BRIEF = 300


class Keeper:
    """The session's checkpoints; on ranks other than 0, and without a directory, it keeps nothing.

    Args:
        this: For the directory, and the numbers to expose.
        settings: Interval and number of checkpoints.
    """

    def __init__(self, this: Process, settings: config.Checkpointing) -> None:
        self._readings, self._interval = this.readings, settings.interval_seconds
        directory = this.env.checkpoint_dir
        self._checkpoints = Checkpoints(directory, keep=settings.keep) if directory else None
        self._rejected: tuple[str, ...] = ()
        self._last = time.monotonic()

    def restore(self, parts: state.Parts) -> state.Position:
        """Put the newest good checkpoint into the parts; without one the training starts.

        Raises:
            ValueError: The checkpoint is of another script.
        """
        if self._checkpoints is None:
            return state.Position()
        loaded = self._checkpoints.load()
        self._rejected = loaded.rejected
        if loaded.saved is None or loaded.payload is None:
            return state.Position()
        log.info("going on from the checkpoint of step %d", loaded.saved.step)
        return state.restore(parse(loaded.payload), parts)

    def load_weights(self, model: nn.Module) -> None:
        """Put the newest good checkpoint's weights into the model, and keep nothing there from now on.

        Raises:
            ValueError: There is none, or it is of another model.
        """
        if self._checkpoints is None:
            return
        loaded, self._checkpoints = self._checkpoints.load(), None
        if loaded.saved is None or loaded.payload is None:
            rejected = f" ({'; '.join(loaded.rejected)})" if loaded.rejected else ""
            raise ValueError(f"there is no checkpoint to infer from{rejected}; name a trained job's place")
        log.info("inferring from the checkpoint of step %d", loaded.saved.step)
        try:
            model.load_state_dict(parse(loaded.payload)["model"])
        except RuntimeError as error:
            raise ValueError(f"the checkpoint is of another model: {error}") from error

    @property
    def due(self) -> bool:
        """Whether the interval has passed and the checkpoint before is written."""
        return (
            self._checkpoints is not None
            and time.monotonic() - self._last >= self._interval
            and not self._checkpoints.busy
        )

    def claim(self) -> bool:
        """Whether one is due, told once: the ranks that have a part in it will save with this one."""
        due = self.due
        if due:
            self._last = time.monotonic()
        return due

    def save(self, parts: state.Parts, position: state.Position, *, wait: bool = False) -> None:
        """Write a checkpoint in the background, or `wait` until it is written. Where the ranks hold a part of
        the model each, all of them call this.
        """
        if self._checkpoints is None:
            parts.holding.lend()
            return
        self._last = time.monotonic()
        snapshot = state.gather(parts, position, self._checkpoints.spare())
        self._checkpoints.save(snapshot, position.cursor.step)
        if wait:
            self._checkpoints.wait()

    def publish(self) -> None:
        """Expose what has become of the checkpoints."""
        if self._checkpoints is None:
            return
        newest = self._checkpoints.newest
        if newest is not None:
            self._readings.checkpoint_step = newest.step
            self._readings.checkpoint_timestamp_seconds = newest.time
        self._readings.checkpoints_rejected_total = float(len(self._rejected))
        self._readings.checkpoint_failures_total = float(self._checkpoints.failures)
        self._readings.checkpoint_failing = float(self._checkpoints.failure is not None)

    def describe(self) -> dict[str, Any]:
        """The newest checkpoint, those that were passed over, and why the last one could not be written."""
        if self._checkpoints is None:
            return {}
        told: dict[str, Any] = {}
        if self._checkpoints.newest:
            told |= {"step": self._checkpoints.newest.step, "path": self._checkpoints.newest.path}
        if self._rejected:
            told["rejected"] = [text[:_BRIEF] for text in self._rejected[:3]]
        if self._checkpoints.failure:
            told["failure"] = self._checkpoints.failure[:_BRIEF]
        return {"checkpoint": told} if told else {}
