"""Trainings that evaluate, for the ranks of `tests.trainer.processes`."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch.nn import functional
from torch.utils.data import TensorDataset

import cra_trainer
from tests.trainer.scripts import Record, digest, make_dataset, make_model


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


def by_torchmetrics(record: Record) -> None:
    """Train an epoch; take F1 and ROC area by torchmetrics over the ranks' parts, and over the whole set."""
    # It takes a second to import, which the other trainings here need not wait for.
    from torchmetrics.classification import MulticlassAUROC, MulticlassF1Score
    from torchmetrics.functional.classification import multiclass_auroc, multiclass_f1_score

    session = cra_trainer.init()
    dataset, inner = make_dataset(64), make_model()
    model, _ = session.prepare(inner, torch.optim.SGD(inner.parameters(), lr=0.1))
    metrics = {"f1": MulticlassF1Score(3), "area": MulticlassAUROC(3)}
    for _ in session.epochs():
        for x, y, _numbers in session.batches(dataset):
            session.backward(functional.cross_entropy(model(x), y))
            session.step()
        rows = 0
        with torch.no_grad():
            for x, y, _numbers in session.shard(dataset):
                rows += len(y)
                for metric in metrics.values():
                    metric.update(model(x), y)
            session.report(**{name: float(metric.compute()) for name, metric in metrics.items()})
            record["rows"] = rows
            scores, labels = model(dataset.tensors[0]), dataset.tensors[1]
            record["whole"] = {
                "f1": float(multiclass_f1_score(scores, labels, 3)),
                "area": float(multiclass_auroc(scores, labels, 3)),
            }
    session.finish()


def in_bfloat16(record: Record) -> None:
    """Train with autocast: the loss of each epoch, and the types that the model computed in."""
    session = cra_trainer.init()
    dataset, inner = make_dataset(64), make_model()
    types = set()
    inner[0].register_forward_hook(lambda _, __, output: types.add(str(output.dtype)))
    model, _ = session.prepare(inner, torch.optim.Adam(inner.parameters(), lr=0.02))
    record["losses"] = []
    for _ in session.epochs():
        for x, y, _numbers in session.batches(dataset):
            with torch.autocast(session.device.type, dtype=torch.bfloat16):
                loss = functional.cross_entropy(model(x), y)
            session.backward(loss)
            session.step()
        with torch.no_grad():
            whole = functional.cross_entropy(inner(dataset.tensors[0]), dataset.tensors[1])
        record["losses"].append(float(whole))
    record["types"] = sorted(types)
    record["weights"] = [str(parameter.dtype) for parameter in inner.parameters()]
    record["digest"] = digest(inner)
    session.finish()


def documented(record: Record) -> None:
    """Run the pieces of scripts in the documentation: what else a script may want, and how good it is."""
    docs = Path(__file__).resolve().parents[2] / "docs"
    session = cra_trainer.init()
    x, y, _numbers = make_dataset(64).tensors
    names = {
        "cra_trainer": cra_trainer,
        "math": math,
        "torch": torch,
        "session": session,
        "model": make_model(),
        "train": TensorDataset(x, y),
        "test": TensorDataset(x, y % 2),
        "loss_function": functional.cross_entropy,
    }
    for page, heading in (
        ("sdk.md", "## What else a script may want"),
        ("workloads.md", "## How good it is"),
    ):
        section = (docs / page).read_text().partition(heading)[2]
        piece = section.partition("```python")[2].partition("```")[0]
        exec(compile(piece, page, "exec"), names)
    session.finish()
