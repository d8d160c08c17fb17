"""Two tasks for one network: which digit an image shows, and by how many quarters it was turned.

    python -m cra_trainer.run -m cra_trainer.workloads.multi_task

Each of scikit-learn's digits is turned anew in every epoch, by 0, 90, 180 or 270 degrees. The tasks share all
convolutions and have a head each. With ``spec.allocator.tasks.strategy: adaptive`` or ``performance`` the
weights of their losses follow the progress of each (`cra_trainer.allocation.tasks`); the result has the
weights in the end.
Parameters (``spec.workload.parameters``): ``width``, channels of the first layers (a multiple of 8, default
16); ``folder``, images of your own in one subfolder for each class.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

import cra_trainer
from cra_trainer.allocation.tasks import TaskWeights
from cra_trainer.config import TaskAllocator
from cra_trainer.data import MapDataset
from cra_trainer.workloads import digits_cnn, images

TASKS = ("digit", "turn")
MEASURES = ("accuracy", "turn_accuracy")


class TwoHeads(nn.Module):
    """Images [rows, 1, h, w] → scores of the digit [rows, classes] and of the turn [rows, 4]."""

    def __init__(self, width: int, classes: int, allocator: TaskAllocator) -> None:
        super().__init__()
        self.body = digits_cnn.make_model(width)[:-1]
        self.heads = nn.ModuleList((nn.Linear(8 * width, classes), nn.Linear(8 * width, 4)))
        self.tasks = TaskWeights(
            TASKS, allocator.strategy, measures=MEASURES, good=allocator.good, poor=allocator.poor
        )

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        features = self.body(x)
        return tuple(head(features) for head in self.heads)


def turn(x: Tensor, quarters: Tensor) -> Tensor:
    """Each image [1, n, n] turned by its number of quarters."""
    turned = torch.stack([torch.rot90(x, i, (2, 3)) for i in range(4)])
    return turned[quarters, torch.arange(len(x), device=x.device)]


def evaluate(
    session: cra_trainer.Session, model: nn.Module, tasks: TaskWeights, test: MapDataset, classes: list[str]
) -> None:
    """Report how well each task is done, every test image turned in all four ways."""
    model.eval()
    scores, turned_right = cra_trainer.Classification(classes), 0.0
    with torch.no_grad():
        for x, digit in session.shard(test):
            for quarters in range(4):
                quarter = torch.full_like(digit, quarters)
                digit_scores, turn_scores = model(turn(x, quarter))
                scores.add(digit_scores, digit)
                turned_right += float((turn_scores.argmax(1) == quarter).sum())
    weights = {f"weight_{name}": float(weight) for name, weight in zip(TASKS, tasks.weights(), strict=True)}
    session.report(scores, turn_accuracy=(turned_right, scores.accuracy[1]), **weights)


def main() -> None:
    session = cra_trainer.init()
    config = session.config
    train, test, classes = images.load(config.parameters.get("folder"), digits_cnn.SIZE)
    inner = TwoHeads(config.number("width", 16), len(classes), config.tasks)
    trained = [*inner.body.parameters(), *inner.heads.parameters()]
    optimizer = cra_trainer.make_optimizer(trained, config.training.optimizer)
    model, optimizer = session.prepare(inner, optimizer, tasks=inner.tasks)

    for _ in session.epochs():
        model.train()
        for x, digit in session.batches(train):
            quarter = torch.randint(4, digit.shape, device=digit.device)
            losses = [
                functional.cross_entropy(scores, label)
                for scores, label in zip(model(turn(x, quarter)), (digit, quarter), strict=True)
            ]
            session.backward(inner.tasks(torch.stack(losses)))
            session.step()
            inner.tasks.step()
        evaluate(session, model, inner.tasks, test, classes)

    session.finish()


if __name__ == "__main__":
    main()
