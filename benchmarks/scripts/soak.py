"""A training that counts its own samples: a parameter beside the network grows by each sample that a step
trains.

The counts are part of the model, so they say what the trained model really holds, whoever trained it and
however often the group was formed anew. `BENCHMARK_EPOCHS` names the file to which rank 0 writes what each
epoch came to, `BENCHMARK_END` one that ends the training once it is there, `BENCHMARK_PACE` the least
seconds of a step.
"""

import json
import os
import time
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import TensorDataset

import cra_trainer
from benchmarks.scripts.session_log import SessionLog

SAMPLES, BATCH = 2000, 64  # 31 batches and a shorter one
INPUTS, WIDTH = 16, 32


class Counted(nn.Module):
    """A small network, and how much each sample has counted so far."""

    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Sequential(nn.Linear(INPUTS, WIDTH), nn.Tanh(), nn.Linear(WIDTH, 1), nn.Flatten(0))
        self.counts = nn.Parameter(torch.zeros(SAMPLES, dtype=torch.float32))

    def forward(self, x: torch.Tensor, samples: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Predictions, and minus the counts: the gradient of each is minus one over the global batch."""
        return self.network(x), -self.counts[samples]


def make_dataset() -> TensorDataset:
    """A function with noise: the least loss is about that of the noise, 1/4."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(SAMPLES, INPUTS, generator=generator)
    y = torch.sin(x @ torch.randn(INPUTS, generator=generator) / 2)
    noise = 0.5 * torch.randn(SAMPLES, generator=generator)
    return TensorDataset(x, y + noise, torch.arange(SAMPLES))


def tally(grown: torch.Tensor) -> tuple[int, int]:
    """How many samples an epoch left out, and how many it trained other than once.

    Args:
        grown: By how much each sample's count grew.
    """
    tail = SAMPLES % BATCH
    once = ((grown * BATCH - 1).abs() < 0.01) | ((grown * tail - 1).abs() < 0.01)
    lost = grown < 0.5 / BATCH
    in_tail = int(((grown * tail - 1).abs() < 0.01).sum())
    return int(lost.sum()), int((~once & ~lost).sum()) + max(0, in_tail - tail)


def main() -> None:
    session = cra_trainer.init()
    dataset, inner = make_dataset(), Counted()
    x_all, y_all, _ = dataset.tensors
    sgd = torch.optim.SGD(
        [
            {"params": inner.network.parameters(), "lr": 0.02, "momentum": 0.9, "weight_decay": 1e-3},
            {"params": [inner.counts], "lr": 1.0},
        ]
    )
    model, optimizer = session.prepare(inner, sgd)
    log = SessionLog(session, optimizer)
    pace, end = float(os.environ.get("BENCHMARK_PACE", 0)), os.environ.get("BENCHMARK_END", "")
    counts = inner.counts.detach().clone()
    for epoch in session.epochs():
        log.epoch = epoch
        for x, y, samples in session.batches(dataset):
            time.sleep(pace)
            predictions, counting = model(x, samples)
            session.backward(functional.mse_loss(predictions, y) + counting.mean())
            session.step()
        loss = 0.0
        if session.rank == 0:
            with torch.no_grad():
                loss = float(functional.mse_loss(inner.network(x_all), y_all))
            lost, repeated = tally(inner.counts.detach() - counts)
            counts = inner.counts.detach().clone()
            told = {
                "time": time.monotonic(),
                "epoch": epoch,
                "lost": lost,
                "repeated": repeated,
                "loss": loss,
            }
            with Path(os.environ["BENCHMARK_EPOCHS"]).open("a") as file:
                file.write(f"{json.dumps(told)}\n")
        session.report(done=float(bool(end) and Path(end).exists()), loss=loss)
    session.finish()


if __name__ == "__main__":
    main()
