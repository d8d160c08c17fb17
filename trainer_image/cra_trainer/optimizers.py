"""The optimizers that a job's spec can name."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator

import torch
from torch import nn

from cra_trainer import config


def make_optimizer(parameters: Iterable[nn.Parameter], settings: config.Optimizer) -> torch.optim.Optimizer:
    """The optimizer of ``spec.training.optimizer``; SGD with the usual momentum of 0.9."""
    rate, decay = settings.learning_rate, settings.weight_decay
    match settings.name:
        case "sgd":
            return torch.optim.SGD(parameters, lr=rate, weight_decay=decay, momentum=0.9)
        case "adam":
            return torch.optim.Adam(parameters, lr=rate, weight_decay=decay)
        case "adamw":
            return torch.optim.AdamW(parameters, lr=rate, weight_decay=decay)
        case "adagrad":
            return torch.optim.Adagrad(parameters, lr=rate, weight_decay=decay)
        case "adafactor":
            return torch.optim.Adafactor(parameters, lr=rate, weight_decay=decay)
        case other:
            raise config.ConfigError(
                f"optimizer: expected one of {', '.join(config.OPTIMIZERS)}, got {other!r}"
            )


def divides_by_root(optimizer: torch.optim.Optimizer) -> bool:
    """Whether it divides gradients by the root of their mean square, as all but plain descent do."""
    return not isinstance(optimizer, torch.optim.SGD | torch.optim.ASGD)


@contextlib.contextmanager
def scaled(optimizer: torch.optim.Optimizer, factor: float) -> Iterator[None]:
    """For one step, all learning rates times `factor`; schedulers never see it."""
    if factor == 1:
        yield
        return
    rates = [group["lr"] for group in optimizer.param_groups]
    try:
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * factor
        yield
    finally:
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
