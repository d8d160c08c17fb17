"""Row A8, weights of tasks: one budget that follows the progress of each, the same on every rank."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
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


def test_a_task_that_validates_poorly_weighs_more_whatever_its_losses_do() -> None:
    tasks = TaskWeights(["a", "b"], "performance", measures=["a_right", "b_right"])
    assert follow(tasks, [5.0, 0.1], [5.0, 0.1]).tolist() == [1, 1]
    assert tasks.explain() == []
    tasks.judge(np.array([0.1, 0.8]))
    weights = tasks.weights()
    assert float(weights[1]) > 1.1
    assert float(weights.sum()) == pytest.approx(2)
    told = tasks.explain()
    assert [(one["task"], one["performance"], one["grade"]) for one in told] == [
        ("a", 1.125, "good"),
        ("b", 0.25, "poor"),
    ]
    assert [one["weight"] for one in told] == pytest.approx(weights.tolist(), abs=1e-4)
    # The loss is the weighted one, and only the weights are left of the validation.
    assert float(tasks(torch.tensor([1.0, 0.0]))) == pytest.approx(float(weights[0]))
    again = TaskWeights(["a", "b"], "performance", measures=["a_right", "b_right"])
    again.load_state_dict(tasks.state_dict())
    assert torch.equal(again.weights(), weights)


@pytest.mark.parametrize("strategy", ["uniform", "adaptive"])
def test_other_strategies_tell_a_tasks_performance_and_do_not_act_on_it(strategy: str) -> None:
    tasks = TaskWeights(["a", "b"], strategy)
    before = follow(tasks, [3.0, 1.0])
    tasks.judge(np.array([0.1, 0.8]))
    assert torch.equal(tasks.weights(), before)
    assert [one["grade"] for one in tasks.explain()] == ["good", "poor"]


def test_performance_needs_a_measure_of_every_task() -> None:
    with pytest.raises(ValueError, match="measures: expected one for each of the tasks a, b"):
        TaskWeights(["a", "b"], "performance", measures=["a_right"])


@pytest.mark.processes
def test_a_job_adjusts_its_poor_task_and_trains_as_one_process_would(tmp_path: Path) -> None:
    config = {
        "training": {"epochs": 4, "batchSize": 20},
        "allocator": {
            "ranks": {"strategy": "fixed", "weights": [1, 3]},
            "tasks": {"strategy": "performance"},
        },
    }
    (single,), ranks = (
        run_ranks(
            scripts_allocation.judged_tasks,
            1 / world_size,
            world_size=world_size,
            directory=tmp_path / str(world_size),
            config=config,
        )
        for world_size in (1, 2)
    )
    assert [rank.code for rank in (single, *ranks)] == [0, 0, 0]
    assert ranks[1].record.pop("logged") == []
    lines = ranks[0].record.pop("logged")
    assert ranks[0].record == ranks[1].record
    assert ranks[0].record["parameters"] == pytest.approx(single.record["parameters"], rel=1e-4, abs=1e-6)
    weights = [weight for _, weight in ranks[0].record["weights"]]
    assert weights == pytest.approx([weight for _, weight in single.record["weights"]])
    assert 1 < weights[0] < weights[1] < weights[2] > weights[3]

    told = json.loads(json.dumps(ranks[0].record["told"]))
    assert [(one["task"], one["grade"]) for one in told] == [("class", "good"), ("size", "good")]
    assert len(lines) == 4
    assert "class performance 1.27 (good)" in lines[0]
    assert "size performance 0.333 (poor), weight 1.2" in lines[0]


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
