"""Trainings whose model is split over the ranks."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

import cra_trainer
from cra_trainer.checkpoint import whole
from tests.trainer.scripts import Record, Slow, evaluate, make_dataset, make_model

SIZE = 52
"""The last batch of an epoch has four rows, so none of three ranks is without."""


def on(
    record: Record, trace: str, sharded: bool, end: Callable[[], None] | None, at: int, victim: int
) -> None:
    """Train with pauses for evaluation, note the rows of every step, and come to an `end` after step `at`."""
    session = cra_trainer.init()
    inner = make_model()
    sgd = torch.optim.SGD(inner.parameters(), lr=0.1, momentum=0.9)
    schedule = torch.optim.lr_scheduler.StepLR(sgd, 5, gamma=0.9)
    blocks = [inner[0]] if sharded else None
    model, _ = session.prepare(inner, sgd, fully_shard=blocks, schedule=schedule)
    record["first"] = session._position.cursor.step + 1
    dataset = make_dataset(SIZE)
    with Path(f"{trace}-{session.rank}").open("w") as file:
        for epoch in session.epochs():
            model.train()
            for x, y, numbers in session.batches(dataset):
                session.backward(functional.cross_entropy(model(x), y))
                session.step()
                schedule.step()
                step = session._position.cursor.step
                file.write(json.dumps({"step": step, "epoch": epoch, "rows": numbers.tolist()}) + "\n")
                file.flush()
                if end is not None and step == at and session.rank == victim:
                    end()
            evaluate(session, model, dataset)
    weights = [whole(p.detach()) for p in inner.parameters()]
    session.finish()
    record["weights"] = torch.cat([w.flatten() for w in weights]).tolist()


def be_killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def be_asked_to_leave() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def refused(record: Record) -> None:
    """Prepare what cannot be split, and note what the session says."""
    session = cra_trainer.init()
    record["said"] = []
    model, other = make_model(), make_model()
    for optimizer, blocks in (
        (torch.optim.Adam(model.parameters()), [other[0]]),
        (torch.optim.Adam(other.parameters()), [model[0]]),
        (torch.optim.Adafactor(model.parameters()), [model[0]]),
    ):
        try:
            session.prepare(model, optimizer, fully_shard=blocks)
        except ValueError as error:
            record["said"].append(str(error))


def infer(record: Record) -> None:
    """Compute with the weights of a checkpoint, each rank its part of the data."""
    session = cra_trainer.init()
    inner = make_model()
    model, _ = session.prepare(inner, fully_shard=[inner[0]])
    correct = record["batches"] = 0
    with torch.no_grad():
        for x, y, _numbers in session.shard(make_dataset(SIZE), batch_size=16):
            correct += int((model(x).argmax(1) == y).sum())
            record["batches"] += 1
    record["correct"] = correct
    weights = [whole(p.detach()) for p in inner.parameters()]
    record["weights"] = torch.cat([w.flatten() for w in weights]).tolist()
    session.finish()


class SlowBlock(nn.Module):
    """A layer that takes a slow rank a twentieth of a second, each way."""

    def __init__(self, slow: bool) -> None:
        super().__init__()
        self.layer, self.slow = nn.Linear(8, 8), slow

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(x)
        if self.slow:
            time.sleep(0.05)
            y = Slow.apply(y)
        return y


def one_is_slow(record: Record) -> None:
    """Note what each rank takes for its own time."""
    session = cra_trainer.init()
    slow = session.rank == 1
    model = nn.Sequential(SlowBlock(slow), SlowBlock(slow), nn.Linear(8, 3))
    adam = torch.optim.Adam(model.parameters())
    prepared, _ = session.prepare(model, adam, fully_shard=model[:2])
    record["seconds"] = []
    for x, y, _numbers in session.batches(make_dataset(64)):
        session.backward(functional.cross_entropy(prepared(x), y))
        session.step()
        record["seconds"].append(session._process.readings.compute_seconds)
    session.finish()
