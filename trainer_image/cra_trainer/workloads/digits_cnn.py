"""Handwritten digits: a small convolutional network on scikit-learn's 1797 images of 8x8 pixels.

    python -m cra_trainer.run -m cra_trainer.workloads.digits_cnn

Needs no download. Each training image is turned, scaled and shifted anew in every epoch, which is what keeps
a network of this size from learning the 1437 images by heart. The learning rate makes one cycle: up to six
times that of the spec, then down to almost nothing. Parameters (``spec.workload.parameters``): ``width``,
channels of the first layers (a multiple of 8, default 32).
"""

from __future__ import annotations

import math

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import TensorDataset

import cra_trainer

SIZE = 16  # the images are doubled, so that turning them by a few degrees loses nothing


def load() -> tuple[TensorDataset, TensorDataset]:
    """Training and test set, images [1, 16, 16] in [0, 1]; every fifth image is for the test."""
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16
    images = functional.interpolate(images, size=SIZE, mode="bilinear", align_corners=False)
    labels = torch.tensor(digits.target)
    test = torch.arange(len(labels)) % 5 == 0
    return TensorDataset(images[~test], labels[~test]), TensorDataset(images[test], labels[test])


def augment(images: Tensor) -> Tensor:
    """Each image turned by up to 14 degrees, scaled by up to a tenth and shifted by up to one pixel."""
    n = len(images)
    angle = (torch.rand(n, device=images.device) - 0.5) * math.radians(28)
    scale = 1 + (torch.rand(n, device=images.device) - 0.5) * 0.2
    shift = (torch.rand(n, 2, device=images.device) - 0.5) * (4 / SIZE)
    cos, sin = torch.cos(angle) * scale, torch.sin(angle) * scale
    rows = (torch.stack((cos, -sin, shift[:, 0]), dim=1), torch.stack((sin, cos, shift[:, 1]), dim=1))
    grid = functional.affine_grid(torch.stack(rows, dim=1), list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, align_corners=False)


def make_model(width: int) -> nn.Module:
    """Three stages of convolutions; group norm, because the statistics of a batch would depend on how it is
    split.
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
        nn.Linear(8 * width, 10),
    )


def main() -> None:
    session = cra_trainer.init()
    train, test = load()
    model = make_model(session.config.number("width", 32))
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
        for images, labels in session.batches(train):
            loss = functional.cross_entropy(model(augment(images)), labels)
            session.backward(loss)
            session.step()
            schedule.step()

        model.eval()
        correct, loss_sum, count = 0.0, 0.0, 0
        with torch.no_grad():
            for images, labels in session.shard(test):
                logits = model(images)
                correct += float((logits.argmax(dim=1) == labels).sum())
                loss_sum += float(functional.cross_entropy(logits, labels, reduction="sum"))
                count += len(labels)
        session.report(accuracy=(correct, count), test_loss=(loss_sum, count))

    session.finish()


if __name__ == "__main__":
    main()
