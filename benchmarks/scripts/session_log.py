"""The log of steps of a script that trains on a session."""

from collections.abc import Iterable

import torch

import cra_trainer
from benchmarks.steps import Kind, StepLog


class SessionLog:
    """Notes each step that the optimizer takes, and the batches that it is told of.

    Attributes:
        epoch: The epoch under way, for the script to set.
    """

    def __init__(self, session: cra_trainer.Session, optimizer: torch.optim.Optimizer) -> None:
        self.epoch = 0
        self._session, self._log, self._step = session, StepLog(), 0
        optimizer.register_step_post_hook(self._stepped)

    def batch(self, samples: Iterable[int]) -> None:
        """This rank was handed these samples."""
        self._write("batch", samples)

    def _stepped(self, *_: object) -> None:
        self._step += 1
        self._write("step")

    def _write(self, kind: Kind, samples: Iterable[int] = ()) -> None:
        session = self._session
        self._log.write(
            kind,
            rank=session.rank,
            world_size=session.world_size,
            step=self._step,
            epoch=self.epoch,
            samples=samples,
        )
