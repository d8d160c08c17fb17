"""Trainings for the ranks of `tests.trainer.processes`: small, but through the whole session."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import signal
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import TensorDataset

import cra_trainer.session
from cra_trainer import data
from cra_trainer.checkpoint import whole

Record = dict[str, Any]


def make_dataset(size: int) -> TensorDataset:
    """`size` random rows of x, y and the row's number, so that what was trained can be told."""
    generator = torch.Generator().manual_seed(size)
    x = torch.randn(size, 8, generator=generator)
    return TensorDataset(x, torch.randint(3, (size,), generator=generator), torch.arange(size))


def make_model(dropout: float = 0.0) -> nn.Sequential:
    return nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Dropout(dropout), nn.Linear(16, 3))


def gradients(record: Record, size: int, per_row: bool, dtype: torch.dtype = torch.float32) -> None:
    """Compare the gradient of every step with that of one process on the whole batch."""
    session = cra_trainer.init()
    dataset, inner = make_dataset(size), make_model().to(dtype)
    single = copy.deepcopy(inner)
    model, _ = session.prepare(inner, torch.optim.SGD(inner.parameters(), lr=0.1))
    x_all, y_all = dataset.tensors[0].to(dtype), dataset.tensors[1]
    record |= {"errors": [], "rows": []}
    for epoch in session.epochs():
        order, start = data.permutation(size, seed=session.config.training.seed, epoch=epoch), 0
        for x, y, numbers in session.batches(dataset):
            loss = functional.cross_entropy(model(x.to(dtype)), y, reduction="none" if per_row else "mean")
            session.backward(loss)
            whole = order[start : start + session.config.training.batch_size]
            start += len(whole)
            single.load_state_dict(inner.state_dict())
            single.zero_grad()
            loss = functional.cross_entropy(single(x_all[whole]), y_all[whole])
            loss.backward()  # type: ignore[no-untyped-call]
            expected, got = flat_gradient(single), flat_gradient(inner)
            record["errors"].append(float((got - expected).norm() / expected.norm()))
            record["rows"].append(numbers.tolist())
            session.step()
    session.finish()


def flat_gradient(model: nn.Module) -> torch.Tensor:
    return torch.cat([whole(p.grad).flatten().double() for p in model.parameters() if p.grad is not None])


def collectives(record: Record) -> None:
    """Record the collectives of an epoch under the session, and of as many steps under DDP alone."""
    session = cra_trainer.init()
    dataset, inner = make_dataset(64), make_model()
    model, _ = session.prepare(inner, torch.optim.SGD(inner.parameters(), lr=0.1))
    bare = nn.parallel.DistributedDataParallel(copy.deepcopy(inner))
    x_all, y_all, _numbers = dataset.tensors
    steps = 0
    with profile() as by_session:
        for x, y, _numbers in session.batches(dataset):
            session.backward(functional.cross_entropy(model(x), y))
            session.step()
            steps += 1
    with profile() as by_ddp:
        for _ in range(steps):
            functional.cross_entropy(bare(x_all), y_all).backward()  # type: ignore[no-untyped-call]
    record["session"], record["ddp"] = (
        sorted(event.name for event in one.events() or [] if event.name.startswith("gloo:"))
        for one in (by_session, by_ddp)
    )
    session.finish()


def profile() -> torch.profiler.profile:
    return torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU])


def beside_the_model(record: Record) -> None:
    """Go backward from losses that do not belong to the prepared model, or to a part of it only."""
    session = cra_trainer.init()
    x, y, _numbers = make_dataset(16).tensors
    inner = nn.ModuleDict({"used": make_model(), "head": nn.Linear(3, 3)})
    inner.forward = lambda x: inner["used"](x)
    model, _ = session.prepare(inner, torch.optim.SGD(inner.parameters(), lr=0.1))
    for called in (inner, model):
        next(iter(session.batches(make_dataset(16))))
        try:
            session.backward(functional.cross_entropy(called(x), y))
        except RuntimeError as error:
            record["inner" if called is inner else "model"] = str(error)
        session._batch = None


class Slow(torch.autograd.Function):
    """Nothing, but for a backward pass of a twentieth of a second."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        time.sleep(0.05)
        return gradient


def slow_at_the_end(record: Record) -> None:
    """Take steps whose backward pass is slow behind the first layer, and record their compute times."""
    session = cra_trainer.init()
    inner = make_model()
    model, _ = session.prepare(inner, torch.optim.SGD(inner.parameters(), lr=0.1))
    inner[0].register_forward_hook(lambda _module, _inputs, output: Slow.apply(output))
    record["seconds"] = []
    for x, y, _numbers in session.batches(make_dataset(64)):
        session.backward(functional.cross_entropy(model(x), y))
        session.step()
        record["seconds"].append(session._process.readings.compute_seconds)


def stream(record: Record, size: int, stop_at: int | None) -> None:
    """Train to the end, or until rank 0 gets SIGTERM in the step `stop_at`; random in all the usual ways."""
    session = cra_trainer.init()
    dataset, inner = make_dataset(size), make_model(dropout=0.5)
    adam = torch.optim.Adam(inner.parameters(), lr=0.01)
    schedule = torch.optim.lr_scheduler.StepLR(adam, 5, gamma=0.9)
    model, optimizer = session.prepare(inner, adam, schedule=schedule)
    record["seen"] = []
    for epoch in session.epochs():
        model.train()
        for x, y, numbers in session.batches(dataset):
            record["seen"].append((epoch, numbers.tolist()))
            noise = torch.randn_like(x) * float(np.random.rand())
            session.backward(functional.cross_entropy(model(x + 0.1 * noise), y))
            if len(record["seen"]) == stop_at and session.rank == 0:
                os.kill(os.getpid(), signal.SIGTERM)
            session.step()
            schedule.step()
        evaluate(session, model, dataset)
    session.finish()
    record["weights"] = torch.cat([p.detach().flatten() for p in inner.parameters()]).tolist()
    record["rate"] = optimizer.param_groups[0]["lr"]


def evaluate(session: cra_trainer.Session, model: nn.Module, dataset: TensorDataset) -> None:
    model.eval()
    correct = count = 0
    with torch.no_grad():
        for x, y, _numbers in session.shard(dataset):
            correct, count = correct + int((model(x).argmax(1) == y).sum()), count + len(y)
    session.report(accuracy=(correct, count))


def die(record: Record, rank: int) -> None:
    """Train, until in the fifth step one rank raises."""
    session = cra_trainer.init()
    dataset, inner = make_dataset(64), make_model()
    model, _ = session.prepare(inner, torch.optim.SGD(inner.parameters(), lr=0.1))
    record["steps"] = 0
    for _ in session.epochs():
        for x, y, _numbers in session.batches(dataset):
            record["steps"] += 1
            if session.rank == rank and record["steps"] == 5:
                raise ValueError("the labels are upside down")
            session.backward(functional.cross_entropy(model(x), y))
            session.step()


def elastic(
    record: Record, size: int, trace: str, pace: float, plain: bool = False, sharded: bool = False
) -> None:
    """Train to the end, and note every step that counted: what of, in which group, and the state after it.

    Each step takes `pace` seconds more, as long as there is no file `trace`.hurry. With `plain` the model
    does the same with a batch in one piece and in parts, and SGD makes no large step of a small difference.
    """
    session = cra_trainer.init()
    dataset, inner = make_dataset(size), nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Linear(16, 3))
    if plain:
        inner = make_model()
    chosen: torch.optim.Optimizer = torch.optim.Adam(inner.parameters(), lr=0.01)
    if plain:
        chosen = torch.optim.SGD(inner.parameters(), lr=0.1, momentum=0.9)
    schedule = torch.optim.lr_scheduler.StepLR(chosen, 5, gamma=0.99)
    blocks = [inner[0]] if sharded else None
    model, optimizer = session.prepare(inner, chosen, fully_shard=blocks, schedule=schedule)
    path, hurry = Path(f"{trace}-{os.getpid()}"), Path(f"{trace}.hurry")
    for epoch in session.epochs():
        model.train()
        for x, y, numbers in session.batches(dataset):
            if not hurry.exists():
                time.sleep(pace)
            group = session.rank, session.world_size
            session.backward(functional.cross_entropy(model(x), y))
            before = digest(inner)
            session.step()
            schedule.step()
            if digest(inner) != before:
                line = {
                    "epoch": epoch, "rows": numbers.tolist(), "group": group, "time": time.time(),
                    "weights": digest(inner), "rate": optimizer.param_groups[0]["lr"],
                    "moments": digest(optimizer),
                }  # fmt: skip
                with path.open("a") as file:
                    file.write(json.dumps(line) + "\n")
        evaluate(session, model, dataset)
    weights = [whole(p.detach()) for p in inner.parameters()]
    session.finish()
    record["weights"] = torch.cat([w.flatten() for w in weights]).tolist()


def digest(holder: nn.Module | torch.optim.Optimizer) -> str:
    """A hash of all parameters, or of all that an optimizer remembers."""
    if isinstance(holder, nn.Module):
        tensors = [whole(parameter.detach()) for parameter in holder.parameters()]
    else:
        noted = [t for one in holder.state.values() for t in one.values()]
        tensors = [whole(t) for t in noted if isinstance(t, torch.Tensor)]
    return hashlib.sha256(b"".join(tensor.numpy().tobytes() for tensor in tensors)).hexdigest()


def misuse(record: Record) -> None:
    """Make every call that the contract excludes and record what the session says to it."""
    session = cra_trainer.init()
    record["said"] = []

    def expect(call: Callable[[], Any]) -> None:
        try:
            call()
        except cra_trainer.SessionError as error:
            record["said"].append(str(error))

    dataset, inner = make_dataset(8), make_model()
    optimizer = torch.optim.SGD(inner.parameters(), lr=0.1)
    expect(lambda: next(iter(session.epochs())))
    expect(lambda: session.backward(torch.zeros(())))
    model, _ = session.prepare(inner, optimizer)
    expect(lambda: session.prepare(inner, optimizer))
    expect(lambda: next(iter(session.batches(make_dataset(0)))))
    batches = session.batches(dataset)
    x, _y, _numbers = next(iter(batches))
    expect(session.step)
    expect(lambda: session.backward(model(x)))
    expect(session.finish)


def documented(record: Record) -> None:
    """Run the script in the session's own documentation."""
    text = cra_trainer.session.__doc__ or ""
    script = text.partition("A whole script::")[2].partition("The contract:")[0]
    names = {
        "load_my_datasets": lambda: [TensorDataset(*make_dataset(size).tensors[:2]) for size in (64, 32)],
        "MyModel": make_model,
        "loss_function": functional.cross_entropy,
        "accurate": lambda logits, y: int((logits.argmax(1) == y).sum()),
    }
    exec(compile(textwrap.dedent(script), "session.py's own example", "exec"), names)


def plain(record: Record) -> None:
    """Train and evaluate, without any randomness of its own."""
    session = cra_trainer.init()
    dataset, inner = make_dataset(64), make_model()
    model, _ = session.prepare(inner, torch.optim.SGD(inner.parameters(), lr=0.1))
    record["epochs"], record["steps"], record["device"] = [], 0, str(session.device)
    for epoch in session.epochs():
        record["epochs"].append(epoch)
        for x, y, _numbers in session.batches(dataset):
            session.backward(functional.cross_entropy(model(x), y))
            session.step()
            record["steps"] += 1
        evaluate(session, model, dataset)
    session.finish()
