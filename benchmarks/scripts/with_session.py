"""The task on the session, as in its documentation; beside it a log of steps."""

import torch
from torch.nn import functional

import cra_trainer
from benchmarks.scripts import task
from benchmarks.steps import StepLog


def main() -> None:
    session = cra_trainer.init()
    dataset, inner = task.make_dataset(), task.make_model()
    sgd = torch.optim.SGD(inner.parameters(), lr=1e-3, momentum=0.9)
    model, optimizer = session.prepare(inner, sgd)
    log, step, epoch = StepLog(), 0, 0

    def stepped(*_: object) -> None:
        nonlocal step
        step += 1
        log.write("step", rank=session.rank, world_size=session.world_size, step=step, epoch=epoch)

    optimizer.register_step_post_hook(stepped)
    for epoch in session.epochs():
        for x, y, samples in session.batches(dataset):
            log.write(
                "batch",
                rank=session.rank,
                world_size=session.world_size,
                step=step,
                epoch=epoch,
                samples=samples.tolist(),
            )
            session.backward(functional.cross_entropy(model(x), y))
            session.step()
    session.finish()


if __name__ == "__main__":
    main()
