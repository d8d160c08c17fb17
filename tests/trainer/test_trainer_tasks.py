"""Weights of tasks: one budget that follows the progress of each, the same on every rank."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from cra_trainer.allocation.tasks import TaskWeights
from tests.trainer import scripts_allocation
from tests.trainer.processes import run_ranks


def follow(tasks: TaskWeights, *losses: list[float]) -> Tensor:
    """The weights after steps with these losses."""
    for one in losses:
        loss: Tensor = tasks(torch.tensor(one))
        if loss.requires_grad:
            loss.backward()  # type: ignore[no-untyped-call]
        tasks.step()
    return tasks.weights()


def test_uniform_tasks_weigh_1_whatever_their_losses_do() -> None:
    tasks = TaskWeights(["a", "b"], "uniform")
    assert follow(tasks, [5.0, 1.0], [5.0, 0.1]).tolist() == [1, 1]
    assert float(tasks(torch.tensor([2.0, 3.0]))) == 5


def test_tasks_count_by_their_relative_loss_at_first() -> None:
    tasks = TaskWeights(["a", "b"], "adaptive")
    assert tasks.weights().tolist() == [1, 1]
    weights = follow(tasks, [3.0, 1.0])
    assert weights.tolist() == pytest.approx([0.5, 1.5])
    assert float(tasks(torch.tensor([3.0, 1.0])).detach()) == pytest.approx(3.0)


def test_a_task_that_falls_behind_gains_attention_and_the_budget_stays() -> None:
    tasks = TaskWeights(["quick", "slow"], "adaptive")
    weights = follow(tasks, *([0.8**step, 1.0] for step in range(40)))
    assert float(tasks.attention.detach()[1]) > float(tasks.attention.detach()[0])
    assert float(weights.sum()) == pytest.approx(2)
    # That the losses differ now is not all: the slow one has more weight than its loss alone would give it.
    losses = tasks.losses.detach()
    assert float(weights[1] / weights[0]) > float(losses[0] / losses[1])


def test_the_weighted_loss_has_the_shape_of_one_tasks_losses_and_the_probe_adds_nothing() -> None:
    tasks = TaskWeights(["a", "b"], "adaptive")
    losses = torch.rand(2, 5, requires_grad=True)
    assert tasks(losses).shape == (5,)
    assert torch.allclose(tasks(losses), losses.sum(0))


def test_the_weights_go_on_from_a_checkpoint() -> None:
    one, two = (TaskWeights(["a", "b"], "adaptive") for _ in range(2))
    follow(one, [3.0, 1.0], [1.0, 1.0])
    two.load_state_dict(one.state_dict())
    assert torch.equal(one.weights(), two.weights())
    assert torch.equal(follow(one, [1.0, 2.0]), follow(two, [1.0, 2.0]))


@pytest.mark.processes
def test_ranks_with_unequal_parts_follow_the_losses_of_the_whole_batch(tmp_path: Path) -> None:
    config = {
        "training": {"epochs": 2, "batchSize": 24},
        "allocator": {
            "ranks": {"strategy": "fixed", "weights": [1, 3]},
            "tasks": {"strategy": "adaptive"},
        },
    }
    ranks = run_ranks(scripts_allocation.two_tasks, world_size=2, directory=tmp_path, config=config)
    assert [rank.code for rank in ranks] == [0, 0]
    assert ranks[0].record["weights"] == ranks[1].record["weights"]
    for told, whole in zip(ranks[0].record["told"], ranks[0].record["whole"], strict=True):
        assert told == pytest.approx(whole, rel=1e-5)
