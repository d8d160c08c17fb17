"""Handwritten digits: a small convolutional network on scikit-learn's 1797 images of 8x8 pixels.

    python -m cra_trainer.run -m cra_trainer.workloads.digits_cnn

Needs no download. Each training image is turned, scaled and shifted anew in every epoch, which is what keeps
a network of this size from learning the 1437 images by heart. The learning rate makes one cycle: up to six
times that of the spec, then down to almost nothing. Parameters (``spec.workload.parameters``): ``width``,
channels of the first layers (a multiple of 8, default 32); ``folder``, images of your own in one subfolder
for each class.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

import cra_trainer
from cra_trainer.workloads import images

SIZE = 16  # the images are doubled, so that turning them by a few degrees loses nothing


def augment(images: Tensor) -> Tensor:
    """Each image turned by up to 14 degrees, scaled by up to a tenth and shifted by up to one pixel."""
    n = len(images)
    angle = (torch.rand(n, device=images.device) - 0.5) * math.radians(28)
    scale = 1 + (torch.rand(n, device=images.device) - 0.5) * 0.2
    shift = (torch.rand(n, 2, device=images.device) - 0.5) * (4 / images.shape[-1])
    cos, sin = torch.cos(angle) * scale, torch.sin(angle) * scale
    rows = (torch.stack((cos, -sin, shift[:, 0]), dim=1), torch.stack((sin, cos, shift[:, 1]), dim=1))
    grid = functional.affine_grid(torch.stack(rows, dim=1), list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, align_corners=False)


def make_model(width: int, classes: int = 10) -> nn.Sequential:
    """Four stages of convolutions and a head; group norm, because the statistics of a batch would depend on
    how it is split.
    """

    def stage(inputs: int, outputs: int) -> list[nn.Module]:
        return [nn.Conv2d(inputs, outputs, 3, padding=1), nn.GroupNorm(8, outputs), nn.ReLU()]

    return nn.Sequential(
        *stage(1, width),
        *stage(width, width),
        nn.MaxPool2d(2),
        *stage(width, 2 * width),
        *stage(2 * width, 2 * width),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.2),
        nn.Linear(8 * width, classes),
    )


def main() -> None:
    session = cra_trainer.init()
    train, test, classes = images.load(session.config.parameters.get("folder"), SIZE)
    model: nn.Module = make_model(session.config.number("width", 32), len(classes))
    training = session.config.training
    optimizer = cra_trainer.make_optimizer(model.parameters(), training.optimizer)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        max_lr=6 * training.optimizer.learning_rate,
        total_steps=training.epochs * math.ceil(len(train) / training.batch_size),
        cycle_momentum=False,
    )
    model, optimizer = session.prepare(model, optimizer, schedule=schedule)

    for _ in session.epochs():
        model.train()
        for x, labels in session.batches(train):
            session.backward(functional.cross_entropy(model(augment(x)), labels))
            session.step()
            schedule.step()
        images.evaluate(session, model, test, classes)

    session.finish()


if __name__ == "__main__":
    main()
