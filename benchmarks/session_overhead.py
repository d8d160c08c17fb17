"""What does the session cost over bare DDP, and how exact is its gradient when shares are unequal?

Two real processes train the digits network, one thread each. In one run and over one process group, steps of
bare DDP and of sessions with equal shares take turns on batches of the same size; each step of a session is
compared with the bare step beside it, and the figure is the median of those ratios. The session is measured
as `uniform`, which keeps equal shares, and as `attention`, which adds scoring and learning and shifts rows as
it measures.

The gradient of a session with shares 3:1 is compared with that of one process on the same global batch.

    make bench NAME=session_overhead
"""

import copy
import os
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import TensorDataset

from benchmarks import paired, sides
from benchmarks.report import describe_machine, print_figures, print_table
from cra_trainer import data
from cra_trainer.session import Session
from cra_trainer.workloads import digits_cnn, images

RANKS = 2
BATCH = 256
ROUNDS = 200
WARM_UP = 15


def gradient_error(session: Session, dataset: TensorDataset, model: nn.Module) -> float:
    """Largest relative error of one epoch's gradients against one process on the whole batch."""
    single = copy.deepcopy(model)
    ddp, _ = session.prepare(model, torch.optim.Adam(model.parameters()))
    order = data.permutation(len(dataset), seed=0, epoch=0)
    worst = 0.0
    for i, (features, labels) in enumerate(session.batches(dataset)):
        session.backward(functional.cross_entropy(ddp(features), labels))
        single.load_state_dict(model.state_dict())
        single.zero_grad()
        whole = [tensor[order[i * BATCH : (i + 1) * BATCH]] for tensor in dataset.tensors]
        functional.cross_entropy(single(whole[0]), whole[1]).backward()  # type: ignore[no-untyped-call]
        expected, got = flat(single), flat(model)
        worst = max(worst, float((got - expected).norm() / expected.norm()))
        session.step()
    return worst


def flat(model: nn.Module) -> torch.Tensor:
    """All gradients of a model, [n]."""
    return torch.cat([p.grad.flatten().double() for p in model.parameters() if p.grad is not None])


def without_dropout(model: nn.Module) -> nn.Module:
    """The model, computing the same however its batch is split."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model


def measure(rank: int, port: int, results: Any) -> None:
    """What one rank does; rank 0 reports."""
    membership = sides.membership(rank, port, ranks=RANKS)
    # The tail of an epoch would be a shorter step.
    features, labels = images.digits(digits_cnn.SIZE)[0].tensors
    size = len(labels) - len(labels) % BATCH
    dataset = TensorDataset(features[:size], labels[:size])
    model = without_dropout(digits_cnn.make_model(32))

    def session(strategy: str, weights: tuple[float, ...] = ()) -> Session:
        return sides.make_session(membership, batch_size=BATCH, strategy=strategy, weights=weights)

    error = gradient_error(session("fixed", (3.0, 1.0)), dataset, copy.deepcopy(model))
    turns = {
        "bare DDP": sides.bare_ddp(dataset, copy.deepcopy(model), batch_size=BATCH),
        "uniform": sides.with_session(session("uniform"), dataset, copy.deepcopy(model)),
        "attention": sides.with_session(session("attention"), dataset, copy.deepcopy(model)),
    }
    times = paired.take_turns(turns, rounds=ROUNDS, warm_up=WARM_UP)
    if rank == 0:
        results.put((times, error))
    membership.finish()


def main() -> None:
    print(describe_machine(torch=torch.__version__))
    print(
        f"{RANKS} processes over gloo, one thread each; digits network, global batch {BATCH}, Adam; "
        f"{ROUNDS} rounds of one step each; load {os.getloadavg()[0]:.1f}\n"
    )
    times, error = paired.run_ranks(measure, ranks=RANKS)
    print_table(paired.HEADER, paired.rows(times, "bare DDP"))
    print(f"\nlargest relative error of the gradient, shares 3:1 against one process: {error:.1e}")

    def cost(side: str) -> float:
        return paired.overhead(times[side], times["bare DDP"]).median

    figures = {
        "overhead_percent": cost("uniform"),
        "attention_overhead_percent": cost("attention"),
    }
    print_figures("session_overhead", {**figures, "gradient_relative_error": error})


if __name__ == "__main__":
    main()
