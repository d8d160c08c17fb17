"""Trainings beside one process that does the same with whole batches: for what must not change the result."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional

import cra_trainer
from benchmarks import gradient_exactness
from cra_trainer import data
from cra_trainer.checkpoint import whole
from tests.trainer.scripts import Record, flat_gradient, make_dataset, make_model
from tests.trainer.scripts_batching import exposed

IGNORED = -100


def token_dataset(size: int) -> torch.utils.data.TensorDataset:
    """Rows of six tokens each, of which some rows ignore nearly all and some none."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(size, 6, 8, generator=generator)
    y = torch.randint(3, (size, 6), generator=generator)
    kept = torch.rand(size, 6, generator=generator) < torch.rand(size, 1, generator=generator)
    return torch.utils.data.TensorDataset(x, torch.where(kept, y, IGNORED), torch.arange(size))


def token_loss(logits: Tensor, y: Tensor, reduction: str) -> Tensor:
    return functional.cross_entropy(
        logits.flatten(0, 1), y.flatten(), ignore_index=IGNORED, reduction=reduction
    )


def beside_one_process(
    record: Record, tokens: bool, at_most: int | None, clip_norm: float | None, sharded: bool = False
) -> None:
    """Train with Adam; note in each step how far gradient, loss and weights are from those of one process."""
    session = cra_trainer.init()
    dataset, inner = token_dataset(50) if tokens else make_dataset(50), make_model()
    single = copy.deepcopy(inner)
    alone = torch.optim.Adam(single.parameters(), lr=0.01)
    blocks = [inner[0], inner[3]] if sharded else None
    model, _ = session.prepare(inner, torch.optim.Adam(inner.parameters(), lr=0.01), fully_shard=blocks)
    record |= {"gradients": [], "weights": [], "losses": [], "pieces": 0, "steps": 0}
    x_all, y_all = dataset.tensors[:2]
    for epoch in session.epochs():
        order, start = data.permutation(50, seed=session.config.training.seed, epoch=epoch), 0
        for x, y, _numbers in session.batches(dataset, at_most=at_most):
            record["pieces"] += 1
            assert at_most is None or len(x) <= at_most
            if tokens:
                loss, count = token_loss(model(x), y, "sum"), float((y != IGNORED).sum())
                session.backward(loss, count=count)
            else:
                session.backward(functional.cross_entropy(model(x), y))
            assert session._batch is not None
            if not session._batch.last:
                assert not session.step(clip_norm=clip_norm)
                continue
            mine = flat_gradient(inner)
            assert session.step(clip_norm=clip_norm)
            rows = order[start : start + session.config.training.batch_size]
            start += len(rows)
            alone.zero_grad()
            loss = (
                token_loss(single(x_all[rows]), y_all[rows], "mean")
                if tokens
                else functional.cross_entropy(single(x_all[rows]), y_all[rows])
            )
            loss.backward()  # type: ignore[no-untyped-call]
            expected = flat_gradient(single)
            record["gradients"].append(float((mine - expected).norm() / expected.norm()))
            if clip_norm is not None:
                nn.utils.clip_grad_norm_(single.parameters(), clip_norm)
            alone.step()
            record["weights"].append(distance(inner, single))
            record["losses"].append((session._account.loss, float(loss.detach())))
            record["steps"] += 1
    noise = session._batching.noise.value
    record["noise"] = None if noise is None else (noise.trace, noise.square)
    session.finish()


def distance(one: nn.Module, other: nn.Module) -> float:
    """Relative distance of two models' weights."""
    a, b = (torch.cat([whole(p.detach()).flatten() for p in m.parameters()]) for m in (one, other))
    return float((a - b).norm() / b.norm())


def synchronised(record: Record) -> None:
    """Ask for pieces of a model whose ranks must go in step."""
    session = cra_trainer.init()
    model = nn.Sequential(nn.Linear(8, 3))
    session.prepare(model, torch.optim.SGD(model.parameters(), lr=0.1))
    # On a CPU torch refuses it earlier.
    model.append(nn.SyncBatchNorm(3))
    try:
        next(iter(session.batches(make_dataset(8), at_most=2)))
    except cra_trainer.SessionError as error:
        record["said"] = str(error)


def in_turn(record: Record) -> None:
    """Note how many rows this rank trains in each step."""
    session = cra_trainer.init()
    inner = make_model()
    model, _ = session.prepare(inner, torch.optim.SGD(inner.parameters(), lr=0.1))
    record["rows"] = []
    for _ in session.epochs():
        for x, y, numbers in session.batches(make_dataset(50)):
            session.backward(functional.cross_entropy(model(x), y))
            session.step()
            record["rows"].append(numbers.tolist())
    record["exposed"] = exposed(session)
    session.finish()


def sharded(record: Record) -> None:
    """Compare FSDP2 under the session's weights, and bare DDP, with one process."""
    session = cra_trainer.init()
    inner = make_model()
    session.prepare(inner, torch.optim.SGD(inner.parameters(), lr=0.1))
    record["fsdp"] = gradient_exactness.by_fsdp([30, 9])
    record["ddp"] = gradient_exactness.by_ddp([30, 9])
