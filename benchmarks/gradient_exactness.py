"""Is the gradient of a group with unequal shares that of one process, and the noise scale without bias?

One to four real ranks over gloo train an epoch each with random shares: plainly, in pieces (accumulation), on
a loss over tokens of which many are ignored, and both. The gradient of every step is compared with that of
one process on the whole batch; the figure is the largest relative error of all. Controls: bare DDP with the
same split, which averages over ranks, and FSDP2 (`fully_shard`) with the session's weights for the losses.

The noise scale is estimated from drawn gradients with known trΣ and |G|², 20,000 steps split 160/20/12;
beside it the formula for equal parts that AdaptDL uses (`petuum/adaptdl`, `torch/gradient_noise_scale.py`).

    make bench NAME=gradient_exactness
"""

import copy
import functools
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn import functional
from torch.utils.data import TensorDataset

from benchmarks import paired, sides
from benchmarks.report import describe_machine, print_figures, print_table
from cra_trainer import data
from cra_trainer.batch import Batch
from cra_trainer.data import Cursor, slice_of
from cra_trainer.elastic.group import Membership
from cra_trainer.noise import Gradients, estimate

BATCH, SIZE, TOKENS, PIECE = 48, 460, 6, 5
IGNORED = -100
SPLIT, TRACE, SQUARE, WIDTH, TRIALS = (160, 20, 12), 100.0, 1.0, 100, 20_000


def make_model() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 3))


def make_dataset() -> TensorDataset:
    """Rows of tokens, of which some rows ignore nearly all and some none."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(SIZE, TOKENS, 8, generator=generator)
    y = torch.randint(3, (SIZE, TOKENS), generator=generator)
    kept = torch.rand(SIZE, TOKENS, generator=generator) < torch.rand(SIZE, 1, generator=generator)
    return TensorDataset(x, torch.where(kept, y, IGNORED))


def loss_of(logits: Tensor, y: Tensor, tokens: bool, reduction: str = "mean") -> Tensor:
    """Over all tokens that are not ignored, or over the first one of each row."""
    if tokens:
        return functional.cross_entropy(
            logits.flatten(0, 1), y.flatten(), ignore_index=IGNORED, reduction=reduction
        )
    return functional.cross_entropy(logits[:, 0], y[:, 0].clamp(min=0), reduction=reduction)


def flat(model: nn.Module) -> Tensor:
    """All gradients of a model, [n], also where they are sharded."""
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    whole = [g.full_tensor() if isinstance(g, DTensor) else g for g in gradients]
    return torch.cat([g.flatten().double() for g in whole])


def error(got: Tensor, model: nn.Module, x: Tensor, y: Tensor, tokens: bool) -> float:
    """Relative distance from the gradient of one process on these rows."""
    single = copy.deepcopy(model)
    single.zero_grad()
    loss_of(single(x), y, tokens).backward()  # type: ignore[no-untyped-call]
    expected = flat(single)
    return float((got - expected).norm() / expected.norm())


def by_session(membership: Membership, weights: tuple[float, ...], *, tokens: bool, pieces: bool) -> float:
    """Largest error of an epoch."""
    session = sides.make_session(membership, batch_size=BATCH, strategy="fixed", weights=weights)
    dataset, inner = make_dataset(), make_model()
    model, _ = session.prepare(inner, torch.optim.SGD(inner.parameters(), lr=0.1))
    order, start, worst = data.permutation(SIZE, seed=0, epoch=0), 0, 0.0
    for x, y in session.batches(dataset, at_most=PIECE if pieces else None):
        if tokens:
            loss = loss_of(model(x), y, tokens, "sum")
            session.backward(loss, count=float((y != IGNORED).sum()))
        else:
            session.backward(loss_of(model(x), y, tokens))
        got, before = flat(inner), copy.deepcopy(inner)
        if session.step():
            rows = order[start : start + BATCH]
            start += len(rows)
            x_whole, y_whole = (tensor[rows] for tensor in dataset.tensors)
            worst = max(worst, error(got, before, x_whole, y_whole, tokens))
    return worst


def by_ddp(rows: list[int]) -> float:
    """Error of bare DDP, whose ranks take the mean over their own parts."""
    x, y = (tensor[: sum(rows)] for tensor in make_dataset().tensors)
    model, mine = make_model(), slice_of(np.array(rows), dist.get_rank())
    ddp = nn.parallel.DistributedDataParallel(model)
    loss_of(ddp(x[mine]), y[mine], False).backward()  # type: ignore[no-untyped-call]
    return error(flat(model), model, x, y, False)


def by_fsdp(rows: list[int]) -> float:
    """Error of FSDP2 with losses weighed as the session weighs them."""
    x, y = (tensor[: sum(rows)] for tensor in make_dataset().tensors)
    model, rank = make_model(), dist.get_rank()
    whole = copy.deepcopy(model)
    for layer in (*model.children(), model):
        fully_shard(layer)
    assert isinstance(model, FSDPModule)
    part = slice_of(np.array(rows), rank)
    batch = Batch(rows=np.array(rows), rank=rank, total=sum(rows), after=Cursor(), started=0.0)
    batch.weigh(loss_of(model(x[part]), y[part], False), None).backward()  # type: ignore[no-untyped-call]
    return error(flat(model), whole, x, y, False)


def measure(rank: int, port: int, results: Any, ranks: int) -> None:
    """What one rank of so many does; rank 0 reports."""
    membership = sides.membership(rank, port, ranks=ranks)
    random, found = np.random.default_rng(ranks), {}
    for tokens in (False, True):
        for pieces in (False, True):
            weights = tuple(float(w) for w in random.uniform(0.2, 4.0, ranks))
            name = " ".join(("tokens" if tokens else "rows", *(("in pieces",) if pieces else ())))
            found[name] = by_session(membership, weights, tokens=tokens, pieces=pieces)
    rows = [BATCH - (ranks - 1), *[1] * (ranks - 1)]
    torch.manual_seed(0)
    found["FSDP2, rows"] = by_fsdp(rows)
    torch.manual_seed(0)
    found["bare DDP, rows"] = by_ddp(rows)
    if rank == 0:
        results.put(found)
    membership.finish()


def noise_bias() -> tuple[float, float]:
    """Largest bias of trΣ and |G|² in percent: of our estimate, and of the formula for equal parts."""
    random, counts = np.random.default_rng(0), np.array(SPLIT, dtype=np.float64)
    total, n = counts.sum(), len(SPLIT)
    ours, equal = np.zeros(2), np.zeros(2)
    for _ in range(TRIALS):
        noise = random.normal(size=(n, WIDTH)) * np.sqrt(TRACE / WIDTH / counts)[:, None]
        parts = np.sqrt(SQUARE / WIDTH) + noise
        whole = float(np.square(counts @ parts / total).sum())
        squares = np.square(parts).sum(axis=1)
        local = float(counts @ squares / total)
        one = estimate(Gradients(parts=n, rows=int(total), local=local, whole=whole))
        ours += (one.trace, one.square)
        mean = float(squares.mean())
        equal += ((mean - whole) * total / (n - 1), (n * whole - mean) / (n - 1))
    truth = np.array([TRACE, SQUARE])
    mine, theirs = (100 * np.abs(sums / TRIALS / truth - 1).max() for sums in (ours, equal))
    return float(mine), float(theirs)


def main() -> None:
    print(describe_machine(torch=torch.__version__))
    print(f"processes over gloo; {SIZE} rows in batches of {BATCH}, pieces of {PIECE}, random shares\n")
    found = {n: paired.run_ranks(functools.partial(measure, ranks=n), ranks=n) for n in range(1, 5)}
    names = list(found[1])
    print_table(
        ["largest relative error", *(f"{n} rank{'s' * (n > 1)}" for n in found)],
        [[name, *(f"{errors[name]:.1e}" for errors in found.values())] for name in names],
    )
    ours, equal = noise_bias()
    print(f"\nnoise scale, split {SPLIT}: bias {ours:.1f} %; formula for equal parts {equal:.0f} %")
    exact = [errors[name] for errors in found.values() for name in names if "DDP" not in name]
    figures = {
        "relative_error": max(exact),
        "noise_scale_bias_percent": ours,
        "bare_ddp_relative_error": found[2]["bare DDP, rows"],
    }
    print_figures("gradient_exactness", figures)


if __name__ == "__main__":
    main()
