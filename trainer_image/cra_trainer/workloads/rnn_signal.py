"""Signals: a recurrent network that tells what a sequence is, from its first sample to its last.

    python -m cra_trainer.run -m cra_trainer.workloads.rnn_signal

Without a folder the signals are scikit-learn's handwritten digits, read row by row: 8 steps of 8 values.
Parameters (``spec.workload.parameters``): ``cell`` (gru, the default, or lstm), ``width`` (default 64),
``layers`` (1); ``folder``, signals of your own as the UCR archive keeps them: files ``*_TRAIN.tsv`` and
``*_TEST.tsv``, in each line the class and then the samples.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import TensorDataset

import cra_trainer
from cra_trainer.config import ConfigError
from cra_trainer.workloads import images

CELLS: dict[str, type[nn.GRU | nn.LSTM]] = {"gru": nn.GRU, "lstm": nn.LSTM}


def load(folder: str | None) -> tuple[TensorDataset, TensorDataset, list[str]]:
    """Training set, test set, both of signals [steps, values], and the names of the classes."""
    if folder is None:
        train, test = (
            TensorDataset(part.tensors[0][:, 0] - 0.5, part.tensors[1]) for part in images.digits(8)
        )
        return train, test, [str(i) for i in range(10)]
    parts = [_read(Path(folder), part) for part in ("TRAIN", "TEST")]
    classes = np.unique(np.concatenate([labels for labels, _ in parts]))
    mean, deviation = parts[0][1].mean(), parts[0][1].std()
    train, test = (
        TensorDataset(
            torch.tensor((signals - mean) / deviation, dtype=torch.float32)[..., None],
            torch.tensor(np.searchsorted(classes, labels)),
        )
        for labels, signals in parts
    )
    return train, test, [f"{name:g}" for name in classes]


def _read(folder: Path, part: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Labels [n] and signals [n, steps] of one part."""
    files = sorted(folder.glob(f"*_{part}.tsv"))
    if len(files) != 1:
        raise ValueError(f"folder: expected one file *_{part}.tsv in {folder}, got {len(files)}")
    table = np.loadtxt(files[0], delimiter="\t", ndmin=2)
    return table[:, 0], table[:, 1:]


class SignalNetwork(nn.Module):
    """Signals [rows, steps, values] → scores [rows, classes], from the mean over all steps' states."""

    def __init__(self, *, cell: str, values: int, width: int, layers: int, classes: int) -> None:
        super().__init__()
        if cell not in CELLS:
            raise ConfigError(
                f"workload.parameters.cell={cell!r}: expected one of {', '.join(sorted(CELLS))}"
            )
        self.states = CELLS[cell](values, width, layers, batch_first=True, bidirectional=True)
        self.head = nn.Sequential(nn.Dropout(0.2), nn.Linear(2 * width, classes))

    def forward(self, x: Tensor) -> Tensor:
        states, _ = self.states(x)
        scores: Tensor = self.head(states.mean(dim=1))
        return scores


def main() -> None:
    session = cra_trainer.init()
    config = session.config
    train, test, classes = load(config.parameters.get("folder"))
    model: nn.Module = SignalNetwork(
        cell=config.parameters.get("cell", "gru"),
        values=train.tensors[0].shape[-1],
        width=config.number("width", 64),
        layers=config.number("layers", 1),
        classes=len(classes),
    )
    optimizer = cra_trainer.make_optimizer(model.parameters(), config.training.optimizer)
    model, optimizer = session.prepare(model, optimizer)

    for _ in session.epochs():
        model.train()
        for x, labels in session.batches(train):
            session.backward(functional.cross_entropy(model(x), labels))
            # Gradients through many steps may explode.
            session.step(clip_norm=1.0)
        images.evaluate(session, model, test, classes)

    session.finish()


if __name__ == "__main__":
    main()
