"""Trainings whose batch adapts, or whose data can only be iterated, for the ranks of `processes`."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional

import cra_trainer.batching
import cra_trainer.noise
import cra_trainer.telemetry
from tests.trainer.scripts import Record, digest, flat_gradient, make_dataset, make_model


def true_noise(model: nn.Module, size: int) -> tuple[float, float]:
    """trΣ and |G|² of a model over a data set, from the gradient of every sample."""
    x, y, _ = make_dataset(size).tensors
    gradients = []
    for i in range(size):
        model.zero_grad()
        functional.cross_entropy(model(x[i : i + 1]), y[i : i + 1]).backward()  # type: ignore[no-untyped-call]
        gradients.append(flat_gradient(model))
    model.zero_grad()
    every = torch.stack(gradients)
    return float(every.var(0).sum()), float(every.mean(0).square().sum())


def standing(record: Record, size: int) -> None:
    """Train at rate 0, so that the noise stays what it is; measure it in every step and forget none."""
    cra_trainer.noise.MEMORY = 0.999
    cra_trainer.batching.EVERY = 2 if os.environ["WORLD_SIZE"] == "1" else 1
    cra_trainer.batching.COST_WATCHED = 1e9
    session = cra_trainer.init()
    inner = make_model()
    record["truth"] = true_noise(inner, size)
    model, _ = session.prepare(inner, torch.optim.SGD(inner.parameters(), lr=0.0))
    for _ in session.epochs():
        for x, y, _numbers in session.batches(make_dataset(size)):
            session.backward(functional.cross_entropy(model(x), y))
            session.step()
    record["exposed"] = exposed(session)
    session.finish()


def exposed(session: cra_trainer.Session) -> dict[str, float]:
    """The metrics of this rank as Prometheus would get them."""
    session._publish()
    text = cra_trainer.telemetry.exposition(session._process.readings).decode()
    pairs = [line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#")]
    return {name.partition("{")[0].removeprefix("cra_trainer_"): float(value) for name, value in pairs}


def adapting(record: Record, size: int, stop_at: int | None) -> None:
    """Train with a batch that adapts, and note of every step what it did; rank 0 gets SIGTERM in one."""
    cra_trainer.batching.EVERY = 1
    cra_trainer.batching.COST = 1e9
    session = cra_trainer.init()
    inner = make_model()
    model, optimizer = session.prepare(inner, torch.optim.SGD(inner.parameters(), lr=0.01))
    record |= {"seen": [], "rates": []}
    optimizer.register_step_pre_hook(
        lambda optimizer, *_: record["rates"].append(optimizer.param_groups[0]["lr"])
    )
    for epoch in session.epochs():
        for x, y, numbers in session.batches(make_dataset(size)):
            session.backward(functional.cross_entropy(model(x), y))
            record["seen"].append((epoch, numbers.tolist()))
            if len(record["seen"]) == stop_at and session.rank == 0:
                os.kill(os.getpid(), signal.SIGTERM)
            session.step()
            assert optimizer.param_groups[0]["lr"] == 0.01
    record["exposed"] = exposed(session)
    session.finish()


class Numbers:
    """Rows by number in seven shards of unequal sizes, or as one stream."""

    def __init__(self, size: int) -> None:
        self._size = size
        self.opened = 0

    def __iter__(self) -> Iterator[int]:
        self.opened += 1
        return iter(range(self._size))


class Shards:
    """The same in shards."""

    def __init__(self, size: int) -> None:
        cuts = [size * i * i // 49 for i in range(8)]
        self.shards = [range(cuts[i], cuts[i + 1]) for i in range(7)]


def iterating(record: Record, kind: str, size: int, stop_at: int | None) -> None:
    """Train on rows that only come one after another; rank 0 gets SIGTERM in one step."""
    session = cra_trainer.init()
    x_all, y_all, _ = make_dataset(size).tensors

    def decode(samples: list[int]) -> tuple[Any, ...]:
        record["decoded"] += len(samples)
        return x_all[samples], y_all[samples], samples

    inner = make_model()
    model, _ = session.prepare(inner, torch.optim.SGD(inner.parameters(), lr=0.1))
    record |= {"seen": [], "decoded": 0}
    dataset: Any = {"shards": Shards, "plain": Numbers}[kind](size)
    for epoch in session.epochs():
        for x, y, numbers in session.batches(dataset, collate=decode):
            session.backward(functional.cross_entropy(model(x), y))
            record["seen"].append((epoch, numbers))
            if len(record["seen"]) == stop_at and session.rank == 0:
                os.kill(os.getpid(), signal.SIGTERM)
            session.step()
        correct = count = 0
        for x, y, _numbers in session.shard(dataset, batch_size=10, collate=decode):
            correct, count = correct + int((model(x).argmax(1) == y).sum()), count + len(y)
        record["evaluated"] = count
        session.report(accuracy=(correct, count))
    session.finish()


def changing(record: Record, size: int, trace: str) -> None:
    """Train on shards with a batch that adapts, slowly enough for ranks to come and die; note every step."""
    cra_trainer.batching.EVERY = 1
    cra_trainer.batching.COST = 1e9
    session = cra_trainer.init()
    x_all, y_all, _ = make_dataset(size).tensors
    inner = make_model()
    model, optimizer = session.prepare(inner, torch.optim.Adam(inner.parameters(), lr=0.01))
    rates: list[float] = []
    optimizer.register_step_pre_hook(lambda optimizer, *_: rates.append(optimizer.param_groups[0]["lr"]))
    path = Path(f"{trace}-{os.getpid()}")
    for epoch in session.epochs():
        for numbers in session.batches(Shards(size), collate=list):
            time.sleep(0.01)
            group = session.rank, session.world_size
            session.backward(functional.cross_entropy(model(x_all[numbers]), y_all[numbers]))
            taken = len(rates)
            session.step()
            if len(rates) > taken:
                line = {
                    "epoch": epoch, "rows": numbers, "group": group, "time": time.time(),
                    "weights": digest(inner), "rate": rates[-1],
                }  # fmt: skip
                with path.open("a") as file:
                    file.write(json.dumps(line) + "\n")
    session.finish()
    record["weights"] = digest(inner)
    record["batching"] = session._batching.state_dict()
