"""Trainings that evaluate, for the ranks of `tests.trainer.processes`."""

from __future__ import annotations

import torch
from torch.nn import functional

import cra_trainer
from tests.trainer.scripts import Record, make_dataset, make_model


def classify(record: Record) -> None:
    """Train an epoch and report per class, with the accuracy over the whole set beside it."""
    session = cra_trainer.init()
    dataset, inner = make_dataset(64), make_model()
    model, _ = session.prepare(inner, torch.optim.SGD(inner.parameters(), lr=0.1))
    for _ in session.epochs():
        for x, y, _numbers in session.batches(dataset):
            session.backward(functional.cross_entropy(model(x), y))
            session.step()
        scores = cra_trainer.Classification(3)
        with torch.no_grad():
            for x, y, _numbers in session.shard(dataset):
                scores.add(model(x), y)
            whole = model(dataset.tensors[0]).argmax(1) == dataset.tensors[1]
        session.report(scores, expected=float(whole.float().mean()))
    session.finish()
