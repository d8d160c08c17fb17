"""The task on the session, as in its documentation; beside it a log of steps."""

import torch
from torch.nn import functional

import cra_trainer
from benchmarks.scripts import task
from benchmarks.scripts.session_log import SessionLog


def main() -> None:
    session = cra_trainer.init()
    dataset, inner = task.make_dataset(), task.make_model()
    sgd = torch.optim.SGD(inner.parameters(), lr=1e-3, momentum=0.9)
    model, optimizer = session.prepare(inner, sgd)
    log = SessionLog(session, optimizer)
    for epoch in session.epochs():
        log.epoch = epoch
        for x, y, samples in session.batches(dataset):
            log.batch(samples.tolist())
            session.backward(functional.cross_entropy(model(x), y))
            session.step()
    session.finish()


if __name__ == "__main__":
    main()
