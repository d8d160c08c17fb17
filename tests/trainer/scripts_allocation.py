"""Trainings whose tasks or layers are allocated, for the ranks of `tests.trainer.processes`."""

from __future__ import annotations

import logging.handlers

import torch
from torch import nn
from torch.nn import functional

import cra_trainer
from cra_trainer import data
from cra_trainer.allocation.layers import LayerCut
from cra_trainer.allocation.samples import Thinning
from cra_trainer.allocation.tasks import TaskWeights
from tests.trainer.scripts import Record, digest, make_dataset, make_model


class TwoTasks(nn.Module):
    def __init__(self, strategy: str) -> None:
        super().__init__()
        self.body = make_model()
        self.tasks = TaskWeights(["class", "size"], strategy, measures=["class_right", "size_error"])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.body(x)
        return scores


def two_losses(scores: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return torch.stack([functional.cross_entropy(scores, y), scores.square().mean() + 0.1])


def two_tasks(record: Record) -> None:
    """Train two tasks; note the losses that the weights follow, and those of one process on the batch."""
    session = cra_trainer.init()
    inner, dataset = TwoTasks(session.config.tasks.strategy), make_dataset(60)
    optimizer = torch.optim.SGD(inner.body.parameters(), lr=0.1)
    model, _ = session.prepare(inner, optimizer, tasks=inner.tasks)
    record |= {"weights": [], "told": [], "whole": []}
    for epoch in session.epochs():
        order, start = data.permutation(60, seed=session.config.training.seed, epoch=epoch), 0
        for x, y, _numbers in session.batches(dataset):
            rows = order[start : start + session.config.training.batch_size]
            start += len(rows)
            with torch.no_grad():
                whole = two_losses(inner(dataset.tensors[0][rows]), dataset.tensors[1][rows])
            session.backward(inner.tasks(two_losses(model(x), y)))
            assert inner.tasks.probe.grad is not None
            record["told"].append(inner.tasks.probe.grad.tolist())
            record["whole"].append(whole.tolist())
            session.step()
            inner.tasks.step()
            record["weights"].append(inner.tasks.weights().tolist())
    session.finish()


def judged_tasks(record: Record, part: float) -> None:
    """Train two tasks, of which a validation finds the second wrong in three parts of four until the last
    epoch; note the weights, what is told of them and logged, and all parameters. `part` of a validation is
    this rank's.
    """
    session = cra_trainer.init()
    logged = logging.handlers.BufferingHandler(1000)
    logging.getLogger("cra_trainer").addHandler(logged)
    inner, dataset = TwoTasks(session.config.tasks.strategy), make_dataset(60)
    model, _ = session.prepare(inner, torch.optim.SGD(inner.body.parameters(), lr=0.1), tasks=inner.tasks)
    record |= {"weights": []}
    for epoch in session.epochs():
        for x, y, _numbers in session.batches(dataset):
            session.backward(inner.tasks(two_losses(model(x), y)))
            session.step()
        wrong = 0.75 if epoch < session.config.training.epochs - 1 else 0.1
        count = 40 * part
        session.report(class_right=(0.95 * count, count), size_error=(wrong * count, count))
        record["weights"].append(inner.tasks.weights().tolist())
    record["told"] = session._explain()["tasks"]
    record["parameters"] = torch.cat([p.detach().flatten() for p in inner.body.parameters()]).tolist()
    lines = [one.getMessage() for one in logged.buffer]
    record["logged"] = [line for line in lines if line.startswith("tasks: ")]
    session.finish()


def cut_layers(record: Record) -> None:
    """Train under a compute budget; note in each step how many blocks are frozen and the weights' digests."""
    session = cra_trainer.init()
    body, dataset = make_model(), make_dataset(64)
    inner = nn.Sequential(body, nn.Linear(3, 3))
    model, _ = session.prepare(inner, torch.optim.Adam(inner.parameters(), lr=0.01))
    assert session._prepared is not None
    layers = session._prepared[0].layers
    assert isinstance(layers, LayerCut)
    record |= {"cuts": [], "weights": [], "first": []}
    for _ in session.epochs():
        for x, y, _numbers in session.batches(dataset):
            record["cuts"].append(layers.cut)
            session.backward(functional.cross_entropy(model(x), y))
            session.step()
            record["weights"].append(digest(inner))
            record["first"].append(digest(body[0]))
        session.report(cut=float(layers.cut))
    session.finish()


def thin(record: Record) -> None:
    """Train without the samples that are thinned out; note how many rows were computed."""
    session = cra_trainer.init()
    inner, dataset, epochs = make_model(), make_dataset(64), session.config.training.epochs
    thinning = Thinning(64, whole=0.25)
    model, _ = session.prepare(inner, torch.optim.SGD(inner.parameters(), lr=0.1))
    record["computed"] = 0
    for epoch in session.epochs():
        for x, y, numbers in session.batches(dataset):
            rows, weights = thinning.choose(numbers, progress=epoch / epochs)
            record["computed"] += len(rows)
            losses = functional.cross_entropy(model(x[rows]), y[rows], reduction="none")
            session.backward(thinning.spread(losses, numbers, rows, weights))
            session.step()
    session.finish()
    record["weights"] = digest(inner)
