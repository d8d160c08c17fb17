"""Images of 28x28 pixels through an attention gate: handwritten digits, 10 epochs in batches of 32 with Adam.

    python -m cra_trainer.run -m cra_trainer.workloads.attention_28x28

Two convolutions find features; a gate A(x) = sigmoid(x W + b) says how much each of them counts before
they are read. The images are scikit-learn's digits, enlarged from 8x8.

Parameters (``spec.workload.parameters``): ``gate``, what the gate sees (global, the default, local,
multi-head or adaptive; see `cra_trainer.allocation.gates`); ``width``, channels of the first layer (a
multiple of 8, default 16); ``folder``, images of your own in one subfolder for each class.
"""

from __future__ import annotations

from typing import cast

from torch import nn
from torch.nn import functional

import cra_trainer
from cra_trainer.allocation.gates import AttentionGate, Kind
from cra_trainer.workloads import images

SIZE = 28


def make_model(width: int, gate: Kind, classes: int) -> nn.Sequential:
    """Images [rows, 1, 28, 28] → scores [rows, classes]."""
    return nn.Sequential(
        nn.Conv2d(1, width, 5, stride=2, padding=2),
        nn.GroupNorm(8, width),
        nn.ReLU(),
        nn.Conv2d(width, 2 * width, 3, stride=2, padding=1),
        nn.GroupNorm(8, 2 * width),
        nn.ReLU(),
        AttentionGate(2 * width, gate),
        nn.Flatten(),
        nn.Dropout(0.25),
        nn.Linear(2 * width * 7 * 7, 64),
        nn.ReLU(),
        nn.Linear(64, classes),
    )


def main() -> None:
    session = cra_trainer.init()
    config = session.config
    train, test, classes = images.load(config.parameters.get("folder"), SIZE)
    gate = cast(Kind, config.parameters.get("gate", "global"))
    model: nn.Module = make_model(config.number("width", 16), gate, len(classes))
    optimizer = cra_trainer.make_optimizer(model.parameters(), config.training.optimizer)
    model, optimizer = session.prepare(model, optimizer)

    for _ in session.epochs():
        model.train()
        for x, labels in session.batches(train):
            session.backward(functional.cross_entropy(model(x), labels))
            session.step()
        images.evaluate(session, model, test, classes)

    session.finish()


if __name__ == "__main__":
    main()
