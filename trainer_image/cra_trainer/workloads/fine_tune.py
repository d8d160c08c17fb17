"""Fine-tuning: a network that knows four of the digits learns to tell all ten apart.

    python -m cra_trainer.run -m cra_trainer.workloads.fine_tune

First each rank makes the pre-trained network: it trains on the digits 0 to 3 for a few seconds. (A model of
your own comes from ``pretrained``, a file that ``torch.save`` made of its `state_dict`.) Then its body, with
a new head, learns all classes. With ``spec.allocator.layers.computeBudget`` below 1 the front of the body
trains only at first; later its results for each image come from memory. Each image has a few augmented
versions, the same ones in every epoch, so that they come again.

Parameters (``spec.workload.parameters``): ``width``, channels of the first layers (a multiple of 8, default
32); ``versions`` of each image (default 4); ``pretrained``; ``folder``, images of your own in one subfolder
for each class.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import TensorDataset

import cra_trainer
from cra_trainer.allocation.forward_cache import Chain, ForwardCache
from cra_trainer.data import MapDataset, mix
from cra_trainer.workloads import digits_cnn, images

KNOWN, PRETEXT_STEPS = 4, 60


def make_pretrained(width: int, file: str | None) -> Chain:
    """The network that knows some classes: of a file, or else of the digits below `KNOWN`."""
    model = Chain(*digits_cnn.make_model(width, KNOWN))
    if file is not None:
        model.load_state_dict(torch.load(file, weights_only=True))
        return model
    x, labels = images.digits(digits_cnn.SIZE)[0].tensors
    x, labels = x[labels < KNOWN], labels[labels < KNOWN]
    optimizer = torch.optim.Adam(model.parameters(), lr=0.003)
    for step in range(PRETEXT_STEPS):
        rows = torch.randint(len(x), (64,), generator=torch.Generator().manual_seed(step))
        functional.cross_entropy(model(digits_cnn.augment(x[rows])), labels[rows]).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
    return model


def in_versions(train: MapDataset, versions: int, seed: int) -> TensorDataset:
    """All images in `versions` augmented versions [versions·n, 1, h, w], their labels and numbers."""
    samples = [train[i] for i in range(len(train))]
    x, labels = torch.stack([image for image, _ in samples]), torch.stack([label for _, label in samples])
    with torch.random.fork_rng():
        torch.manual_seed(mix(seed, versions))
        every = torch.cat([digits_cnn.augment(x) for _ in range(versions)])
    return TensorDataset(every, labels.repeat(versions), torch.arange(len(every)))


def epoch_of(every: TensorDataset, versions: int, epoch: int) -> TensorDataset:
    """One version of every image: another one in each epoch, until they come again."""
    n = len(every) // versions
    start = epoch % versions * n
    return TensorDataset(*(tensor[start : start + n] for tensor in every.tensors))


def main() -> None:
    session = cra_trainer.init()
    config, training = session.config, session.config.training
    width, versions = config.number("width", 32), config.number("versions", 4)
    train, test, classes = images.load(config.parameters.get("folder"), digits_cnn.SIZE)
    every = in_versions(train, versions, training.seed)
    chain = make_pretrained(width, config.parameters.get("pretrained"))
    chain[-1] = nn.Linear(8 * width, len(classes))
    cache = ForwardCache(chain, len(every))
    optimizer = cra_trainer.make_optimizer(chain.parameters(), training.optimizer)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        max_lr=training.optimizer.learning_rate,
        total_steps=training.epochs * math.ceil(len(train) / training.batch_size),
        pct_start=0.1,
        cycle_momentum=False,
    )
    model, optimizer = session.prepare(chain, optimizer, schedule=schedule)

    for epoch in session.epochs():
        model.train()
        for x, labels, numbers in session.batches(epoch_of(every, versions, epoch)):
            front: Tensor
            front, start = cache.skip(x, numbers)
            session.backward(functional.cross_entropy(model(front, start), labels))
            session.step()
            schedule.step()
        images.evaluate(session, model, test, classes)

    session.finish()


if __name__ == "__main__":
    main()
