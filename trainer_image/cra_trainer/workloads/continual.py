"""Continual training: new data re-optimises a trained model from its checkpoint, and it forgets little.

    python -m cra_trainer.run -m cra_trainer.workloads.continual

The training images of the digits arrive in the order in which people wrote them. One job trains on the first
``arrived`` of them; a later one on the same claim, with more images and more epochs, goes on where that one
stopped. An epoch of it has each new image once and as many old ones, drawn anew, so its cost follows what is
new. Parameters (``spec.workload.parameters``): ``arrived`` (default all), ``width``, channels of the first
layers (a multiple of 8, default 16); ``folder``, images of your own in one subfolder for each class.
"""

from __future__ import annotations

from torch import nn
from torch.nn import functional
from torch.utils.data import Subset

import cra_trainer
from cra_trainer.data import MapDataset, permutation
from cra_trainer.workloads import digits_cnn, images


class Arrivals:
    """How many samples have arrived, and of how many an earlier training knew; kept with the checkpoint."""

    def __init__(self, now: int) -> None:
        self.known, self.now = 0, now

    def state_dict(self) -> dict[str, int]:
        return {"known": self.known, "now": self.now}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.known = state["known"] if state["now"] == self.now else state["now"]


def epoch_of(train: MapDataset, arrivals: Arrivals, *, seed: int, epoch: int) -> Subset[object]:
    """All that is new, and as much of what is known, if there is so much."""
    new = range(arrivals.known, arrivals.now)
    known = permutation(arrivals.known, seed=seed, epoch=epoch)[: len(new)]
    return Subset(train, [*new, *known.tolist()])  # type: ignore[arg-type]


def main() -> None:
    session = cra_trainer.init()
    config = session.config
    train, test, classes = images.load(config.parameters.get("folder"), digits_cnn.SIZE)
    arrivals = Arrivals(min(config.number("arrived", len(train)), len(train)))
    model: nn.Module = digits_cnn.make_model(config.number("width", 16), len(classes))
    optimizer = cra_trainer.make_optimizer(model.parameters(), config.training.optimizer)
    model, optimizer = session.prepare(model, optimizer, arrivals=arrivals)

    for epoch in session.epochs():
        model.train()
        part = epoch_of(train, arrivals, seed=config.training.seed, epoch=epoch)
        for x, labels in session.batches(part):
            session.backward(functional.cross_entropy(model(digits_cnn.augment(x)), labels))
            session.step()
        images.evaluate(session, model, test, classes)

    session.finish()


if __name__ == "__main__":
    main()
