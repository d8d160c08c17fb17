"""Row B1, the budget: blocks at the front stop training when it asks for that, and then cost nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from cra_trainer.allocation.forward_cache import Chain, ForwardCache
from cra_trainer.allocation.layers import WARM, LayerCut, attention_of, backward_cost, blocks_of, choose_cut
from tests.trainer import scripts_allocation
from tests.trainer.processes import run_ranks


def network(blocks: int = 6, width: int = 16) -> nn.Sequential:
    return nn.Sequential(*(nn.Linear(width, width) for _ in range(blocks)))


def spend(forward: Any, rates: Any, budget: float, steps: int = 200) -> tuple[float, list[int]]:
    """All backward passes of a training that follows the decisions, and the cut at each step."""
    cut, spent, cuts, decided = 0, 0.0, [], -1.0
    for step in range(steps):
        progress = step / steps
        if progress - decided >= 0.05:
            decided = progress
            cut = choose_cut(forward, rates, cut=cut, spent=spent, progress=progress, budget=budget)
        cuts.append(cut)
        spent += backward_cost(forward, cut) / steps
    return spent, cuts


@pytest.mark.parametrize("cut", range(6))
def test_the_cost_of_a_cut_is_what_the_flop_counter_counts(cut: int) -> None:
    model, x = network(), torch.randn(4, 16)

    def backward_flops() -> int:
        loss = model(x).sum()
        with FlopCounterMode(display=False) as counter:
            loss.backward()
        return int(counter.get_total_flops())

    whole = backward_flops()
    for block in model[:cut]:
        block.requires_grad_(False)
    assert backward_cost(np.ones(6), cut) == pytest.approx(backward_flops() / whole)


@settings(max_examples=40, deadline=None)
@given(
    forward=st.lists(st.floats(0.1, 10), min_size=2, max_size=12),
    rates=st.lists(st.floats(0.001, 10), min_size=12, max_size=12),
    budget=st.floats(0.2, 1),
)
def test_the_budget_is_kept_and_the_cut_only_goes_deeper_and_never_early(
    forward: list[float], rates: list[float], budget: float
) -> None:
    costs = np.array(forward)
    spent, cuts = spend(costs, np.array(rates[: len(forward)]), budget)
    # Nothing is cheaper than the warm-up and then the deepest cut.
    least = WARM + (1 - WARM) * backward_cost(costs, len(costs) - 1)
    assert spent <= max(budget, least) + 0.06
    assert cuts == sorted(cuts)
    assert cuts[-1] < len(forward)
    assert not any(cuts[: int(WARM * len(cuts))])


def test_a_full_budget_trains_everything() -> None:
    assert spend(np.ones(6), np.ones(6), 1.0)[1] == [0] * 200


def test_attention_holds_the_cut_before_a_block_that_still_changes() -> None:
    forward, calm = np.ones(6), np.ones(6)
    eager = np.array([9.0, 1, 1, 1, 1, 1])
    uncut_calm, uncut_eager = (spend(forward, rates, 0.6)[1].count(0) for rates in (calm, eager))
    assert uncut_calm < uncut_eager
    p = attention_of(eager, forward)
    assert p.sum() == pytest.approx(1)
    assert p[0] == pytest.approx(9 / 14)


def test_blocks_are_the_links_of_a_chain_and_the_parts_of_a_model() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.front, self.norm = (
                nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2)),
                nn.LayerNorm(2),
            )
            self.tail = nn.ModuleList([nn.Linear(2, 2)])

    model = Model()
    assert blocks_of(model) == [model.front[0], model.front[2], model.norm, model.tail[0]]
    with pytest.raises(ValueError, match="no parts with parameters to freeze"):
        LayerCut(nn.ReLU(), 0.5)


def train(
    model: nn.Module,
    layers: LayerCut,
    steps: int,
    rate: float = 0.1,
    *,
    losses: Sequence[float] | None = None,
    since: int = 0,
    until: int | None = None,
) -> list[int]:
    """The cut after each step, of those from `since` until `until`; with `losses`, of 0.01 s each."""
    optimizer, cuts = torch.optim.SGD(model.parameters(), lr=rate), []
    for step in range(since, steps if until is None else until):
        torch.manual_seed(step)
        model(torch.randn(8, 16)).square().mean().backward()
        layers.follow(optimizer, step / steps, None if losses is None else (losses[step], 0.01))
        optimizer.step()
        optimizer.zero_grad()
        cuts.append(layers.cut)
    return cuts


def test_costs_are_counted_in_the_first_forward_pass_and_a_frozen_block_gets_no_gradient() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 16), nn.LayerNorm(16), nn.Linear(16, 1))
    layers = LayerCut(model, 0.3)
    cuts = train(model, layers, 100)
    assert cuts[-1] > 0
    assert layers.state_dict()["forward"] == [2 * 8 * 16 * 64, 2 * 8 * 64 * 16, 0, 2 * 8 * 16]
    model(torch.randn(8, 16)).square().mean().backward()
    frozen = [p.grad is None for p in model.parameters()]
    assert frozen == [True] * sum(frozen) + [False] * (len(frozen) - sum(frozen))
    assert any(frozen)


def test_all_blocks_train_again_when_the_learning_rate_starts_anew() -> None:
    model = network()
    layers = LayerCut(model, 0.5)
    train(model, layers, 100)
    assert layers.cut > 0
    changed = layers.follow(torch.optim.SGD(model.parameters(), lr=1.0), 0.995)
    assert changed
    assert layers.cut == 0
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_nothing_is_frozen_while_the_learning_rate_rises() -> None:
    model = network()
    layers, cuts = LayerCut(model, 0.5), []
    for step in range(100):
        model(torch.randn(8, 16)).square().mean().backward()
        rate = min(step, 40) / 1000
        layers.follow(torch.optim.SGD(model.parameters(), lr=rate), step / 100)
        cuts.append(layers.cut)
    assert not any(cuts[:41])
    assert cuts[-1] > 0


def test_what_the_user_froze_stays_frozen() -> None:
    model = network()
    model[3].requires_grad_(False)
    layers = LayerCut(model, 0.5)
    layers.load_state_dict(layers.state_dict() | {"cut": 2})
    layers.load_state_dict(layers.state_dict() | {"cut": 0})
    assert [p.requires_grad for p in model[3].parameters()] == [False, False]
    assert all(p.requires_grad for p in model[0].parameters())


@pytest.mark.processes
@pytest.mark.parametrize("learn", ["none", "reward"])
def test_all_ranks_cut_alike_and_a_restart_goes_on_with_the_same_cut(tmp_path: Path, learn: str) -> None:
    def run(name: str, epochs: int) -> list[Any]:
        return run_ranks(
            scripts_allocation.cut_layers,
            world_size=2,
            directory=tmp_path / name,
            checkpoints=tmp_path / "checkpoints",
            config={
                "training": {"epochs": epochs, "batchSize": 16},
                "allocator": {
                    "ranks": {"strategy": "fixed", "weights": [1, 2]},
                    "layers": {"computeBudget": 0.5, "learn": learn},
                },
            },
        )

    ranks = run("first", 6)
    assert [rank.code for rank in ranks] == [0, 0]
    one, other = (rank.record for rank in ranks)
    assert other == one
    assert one["cuts"][:2] == [0, 0]
    assert one["cuts"][-1] > 0
    frozen = one["cuts"].index(1)
    assert len(set(one["first"][: frozen - 1])) == frozen - 1
    assert len(set(one["first"][frozen:])) == 1
    assert len(set(one["weights"])) == len(one["weights"])

    again = run("again", 8)
    assert [rank.code for rank in again] == [0, 0]
    assert again[0].record["cuts"][0] == one["cuts"][-1]
    assert again[0].record["first"][0] == one["first"][-1]


def test_what_a_frozen_front_made_of_a_sample_is_not_computed_again() -> None:
    torch.manual_seed(0)
    chain, x = Chain(nn.Linear(4, 8), nn.Dropout(0.5), nn.ReLU(), nn.Linear(8, 2)), torch.randn(6, 4)
    cache, numbers = ForwardCache(chain, 6), torch.arange(6)
    calls: list[int] = []
    chain[0].register_forward_hook(lambda _, inputs, __: calls.append(len(inputs[0])))
    assert cache.skip(x, numbers)[1] == 0

    chain[0].requires_grad_(False)
    front, start = cache.skip(x[:4], numbers[:4])
    assert start == 3
    assert chain.training
    assert torch.equal(front, functional.relu(chain[0](x[:4])))
    calls.clear()
    again, _ = cache.skip(x[[1, 5, 0]], numbers[[1, 5, 0]])
    assert calls == [1]
    assert torch.equal(again[[0, 2]], front[[1, 0]])
    assert torch.allclose(chain(again, start), chain.eval()(x[[1, 5, 0]]))

    # Another cut is another front.
    chain[3].requires_grad_(False)
    assert cache.skip(x, numbers)[1] == 4
    chain.requires_grad_(True)
    assert torch.equal(cache.skip(x, numbers)[0], x)
