"""The same training with and without a session, step by step, over one process group: sides for `paired`."""

import itertools
import os
from collections.abc import Iterator

import torch
from torch import distributed as dist
from torch import nn
from torch.nn import functional
from torch.utils.data import TensorDataset

from cra_trainer import config, data, process
from cra_trainer.elastic.group import Membership
from cra_trainer.session import Session


def membership(rank: int, port: int, *, ranks: int) -> Membership:
    """The way of a fresh process, rank so-and-so of so many, into the group; all its sessions share it."""
    os.environ |= {
        "RANK": str(rank),
        "WORLD_SIZE": str(ranks),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    torch.set_num_threads(1)
    torch.manual_seed(0)
    this = process.start()
    return Membership(this.env, on_member=this.defer_stop, on_exclusion=this.give_up)


def make_session(
    membership: Membership, *, batch_size: int, strategy: str, weights: tuple[float, ...] = ()
) -> Session:
    """One more session."""
    settings = config.Config(
        training=config.Training(epochs=10**6, batch_size=batch_size),
        ranks=config.RankAllocator(strategy=strategy, weights=weights),
    )
    return Session(process.start(), settings, membership)


def bare_ddp(
    dataset: TensorDataset,
    model: nn.Module,
    optimizer: torch.optim.Optimizer | None = None,
    *,
    batch_size: int,
) -> Iterator[None]:
    """Plain DDP as anybody would write it, with Adam where no optimizer is given; each `next` is a step."""
    rank, ranks = dist.get_rank(), dist.get_world_size()
    ddp = nn.parallel.DistributedDataParallel(model)
    optimizer = optimizer or torch.optim.Adam(model.parameters())
    x, y = dataset.tensors[:2]
    for epoch in itertools.count():
        order = data.permutation(len(x), seed=0, epoch=epoch)
        for start in range(0, len(x) - batch_size + 1, batch_size):
            mine = order[start : start + batch_size].chunk(ranks)[rank]
            functional.cross_entropy(ddp(x[mine]), y[mine]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            optimizer.zero_grad()
            yield


def with_session(
    session: Session,
    dataset: TensorDataset,
    model: nn.Module,
    optimizer: torch.optim.Optimizer | None = None,
) -> Iterator[None]:
    """The same training through a session; each `next` is a step."""
    wrapped, _ = session.prepare(model, optimizer or torch.optim.Adam(model.parameters()))
    for _epoch in session.epochs():
        for x, y, *_ in session.batches(dataset):
            session.backward(functional.cross_entropy(wrapped(x), y))
            session.step()
            yield
