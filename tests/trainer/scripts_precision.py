"""float16 and its scaler, beside one process that scales as torch's own examples do."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional

import cra_trainer
from cra_trainer import data
from tests.trainer.scripts import Record, flat_gradient, make_dataset, make_model
from tests.trainer.scripts_exact import distance

SIZE = 50
OUTLIER = 17
"""The row whose gradient is beyond what float32 holds, once it is scaled."""


def rows_loss(logits: Tensor, y: Tensor, numbers: Tensor) -> Tensor:
    weight = torch.where(numbers == OUTLIER, 1e36, 1.0)
    return functional.cross_entropy(logits, y, reduction="none") * weight


def make_scaler() -> torch.amp.GradScaler:
    return torch.amp.GradScaler("cpu", growth_interval=4)


def beside_one_process(record: Record, at_most: int | None, sharded: bool = False) -> None:
    """Train with a row that overflows; note in each step how far all is from one process with its scaler."""
    session = cra_trainer.init()
    dataset, inner = make_dataset(SIZE), make_model()
    single, one_scaler, scaler = copy.deepcopy(inner), make_scaler(), make_scaler()
    alone = torch.optim.Adam(single.parameters(), lr=0.01)
    chosen = torch.optim.Adam(inner.parameters(), lr=0.01)
    blocks = [inner[0]] if sharded else None
    model, _ = session.prepare(inner, chosen, scaler=scaler, fully_shard=blocks)
    record |= {"first_scale": scaler.get_scale(), "scales": [], "gradients": [], "weights": [], "skipped": []}
    for epoch in session.epochs():
        order, start = data.permutation(SIZE, seed=session.config.training.seed, epoch=epoch), 0
        for x, y, numbers in session.batches(dataset, at_most=at_most):
            session.backward(rows_loss(model(x), y, numbers))
            batch, mine = session._batch, flat_gradient(inner)
            assert batch is not None
            last, taken = batch.last, session.step(clip_norm=0.05)
            if not last:
                continue
            whole = order[start : start + session.config.training.batch_size]
            start += len(whole)
            x, y, numbers = (tensor[whole] for tensor in dataset.tensors)
            alone.zero_grad()
            one_scaler.scale(rows_loss(single(x), y, numbers).mean()).backward()  # type: ignore[no-untyped-call]
            one_scaler.unscale_(alone)
            expected = flat_gradient(single)
            if taken:
                record["gradients"].append(float((mine - expected).norm() / expected.norm()))
            else:
                record["skipped"].append(OUTLIER in numbers)
            nn.utils.clip_grad_norm_(single.parameters(), 0.05)
            one_scaler.step(alone)
            one_scaler.update()
            record["scales"].append((scaler.get_scale(), one_scaler.get_scale()))
            record["weights"].append(distance(inner, single))
    noise = session._batching.noise.value
    record["noise"] = None if noise is None else (noise.trace, noise.square)
    session.finish()


def small_gradients(record: Record, scaled: bool) -> None:
    """Train in float16 on a loss whose gradients are too small for it, and note how much is learnt."""
    session = cra_trainer.init()
    inner = make_model()
    before = copy.deepcopy(inner)
    scaler = torch.amp.GradScaler("cpu", enabled=scaled)
    model, _ = session.prepare(inner, torch.optim.Adam(inner.parameters(), lr=0.01), scaler=scaler)
    for _ in session.epochs():
        for x, y, _numbers in session.batches(make_dataset(SIZE)):
            with torch.autocast("cpu", dtype=torch.float16):
                loss = functional.cross_entropy(model(x), y)
            session.backward(loss * 1e-7)
            session.step()
    session.finish()
    record["learnt"] = distance(inner, before)
