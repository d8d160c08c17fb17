"""One task for both sides: ten million parameters, on data that are made up."""

import torch
from torch import nn
from torch.utils.data import TensorDataset

BATCH = 32  # over all ranks together
INPUTS, WIDTH, CLASSES = 256, 2172, 10


def make_dataset(size: int = 4096) -> TensorDataset:
    """Random rows, a label that depends on them, and the row's number, by which it is known again."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(size, INPUTS, generator=generator)
    y = (x @ torch.randn(INPUTS, CLASSES, generator=generator)).argmax(1)
    return TensorDataset(x, y, torch.arange(size))


def make_model() -> nn.Sequential:
    """A perceptron of 10.0 million parameters."""
    return nn.Sequential(
        nn.Linear(INPUTS, WIDTH),
        nn.ReLU(),
        nn.Linear(WIDTH, WIDTH),
        nn.ReLU(),
        nn.Linear(WIDTH, WIDTH),
        nn.ReLU(),
        nn.Linear(WIDTH, CLASSES),
    )
