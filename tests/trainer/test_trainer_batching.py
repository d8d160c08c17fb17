"""The batch that pays most, the learning rate that fits it, and a state that survives every change."""

from __future__ import annotations

import copy
import json
import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cra_trainer.allocation.ranks import RankPlanner
from cra_trainer.allocation.strategies import make_strategy
from cra_trainer.batching import EVERY, GAIN, Batching, StepTime, StepTimes, best_batch, gain, goodput
from cra_trainer.config import Training
from cra_trainer.noise import ENOUGH, Gradients, Noise
from cra_trainer.optimizers import divides_by_root, scaled

positive = st.floats(1e-6, 1e6)


def batching(base: int = 64, world_size: int = 2, by_root: bool = False, **settings: Any) -> Batching:
    training = Training(batch_size=base, **settings)
    made = Batching(training, world_size=world_size)
    made.by_root = by_root
    return made


def measured(noise: Noise, rows: int, parts: int = 2) -> Gradients:
    """What a group would measure if there were no chance in it."""
    return Gradients(
        parts=parts,
        rows=rows,
        local=noise.square + parts * noise.trace / rows,
        whole=noise.square + noise.trace / rows,
    )


def test_a_sample_of_a_larger_batch_is_worth_less_once_the_noise_is_known() -> None:
    group, noise = batching(base=32), Noise(trace=100.0, square=1.0)
    group.size = 128
    for _ in range(ENOUGH):
        assert group.efficiency == 1
        group.observe(rows=128, gradients=measured(noise, 128))
    assert group.efficiency == pytest.approx((100 + 32) / (100 + 128))


def train(group: Batching, noise: Noise, time: StepTime, steps: int) -> list[int]:
    """Steps of a group with this noise and these step times; returns the batch of each."""
    sizes, last = [], None
    for step in range(steps):
        rows = group.size
        group.observe(
            rows=rows,
            took=last,
            gradients=measured(noise, rows) if group.due(step) else None,
        )
        last = rows, time.fixed + time.per_row * rows
        sizes.append(rows)
    return sizes


@given(st.integers(1, 10**5), st.integers(1, 10**5), positive, positive)
def test_a_gain_lies_between_one_and_the_ratio_of_the_batches(
    rows: int, base: int, trace: float, square: float
) -> None:
    r = gain(rows, base=base, noise=Noise(trace=trace, square=square))
    assert min(1, rows / base) * (1 - 1e-9) <= r <= max(1, rows / base) * (1 + 1e-9)


def test_the_gain_has_the_limits_of_its_formula() -> None:
    assert gain(64, base=64, noise=Noise(trace=3, square=2)) == 1
    assert gain(640, base=64, noise=Noise(trace=1, square=0)) == pytest.approx(10)
    assert gain(640, base=64, noise=Noise(trace=1, square=-1)) == pytest.approx(10)
    assert gain(640, base=64, noise=Noise(trace=0, square=1)) == 1
    assert gain(640, base=64, noise=Noise(trace=0, square=0)) == 1
    # φ = 64: (64/64 + 1) / (64/128 + 1)
    assert gain(128, base=64, noise=Noise(trace=64, square=1)) == pytest.approx(4 / 3)


@pytest.mark.parametrize(
    ("rule", "by_root", "factor"),
    [("fixed", False, 1), ("linear", False, 4), ("sqrt", True, 2), ("adascale", False, 1.6)],
)
def test_each_rule_follows_the_batch(rule: str, by_root: bool, factor: float) -> None:
    group = batching(by_root=by_root, learning_rate_rule=rule, min_batch_size=64, max_batch_size=512)
    group.observe(rows=64, gradients=measured(Noise(trace=64, square=1), 64))
    assert group.factor(64) == 1
    assert group.factor(256) == pytest.approx(factor)
    # A tail does not pull it below the batch that the rate is meant for.
    assert group.factor(3) == 1


def test_adaptive_optimizers_take_the_root_of_the_gain() -> None:
    group = batching(by_root=True, learning_rate_rule="adascale", max_batch_size=512)
    group.observe(rows=64, gradients=measured(Noise(trace=64, square=1), 64))
    assert group.factor(256) == pytest.approx(math.sqrt(1.6))


def test_before_anything_is_measured_the_rate_stays() -> None:
    assert batching(learning_rate_rule="adascale", max_batch_size=512).factor(512) == 1


@given(st.floats(1, 1e5), st.floats(0, 1), st.floats(1e-6, 1e-2), st.integers(1, 500), st.integers(1, 500))
def test_the_best_batch_is_the_oracles(
    scale: float, fixed: float, per_row: float, low: int, more: int
) -> None:
    noise, time = Noise(trace=scale, square=1), StepTime(fixed, per_row)
    best = best_batch(noise=noise, time=time, low=low, high=low + more)
    oracle = max(goodput(b, base=64, noise=noise, time=time) for b in range(low, low + more + 1))
    assert low <= best <= low + more
    assert goodput(best, base=64, noise=noise, time=time) >= 0.98 * oracle


@pytest.mark.parametrize("scale", [20.0, 300.0, 5000.0])
@pytest.mark.parametrize("time", [StepTime(0.05, 1e-4), StepTime(0.001, 1e-3), StepTime(0.2, 1e-5)])
def test_a_group_finds_the_best_batch_by_its_own_measurements(scale: float, time: StepTime) -> None:
    noise = Noise(trace=scale, square=1)
    group = batching(min_batch_size=16, max_batch_size=4096)
    sizes = train(group, noise, time, 1000)
    oracle = max(goodput(b, base=64, noise=noise, time=time) for b in range(16, 4097))
    assert goodput(sizes[-1], base=64, noise=noise, time=time) >= oracle / (1 + GAIN)
    # And then it stays there.
    assert len(set(sizes[600:])) == 1
    assert all(16 <= size <= 4096 for size in sizes)


def test_a_growing_noise_scale_grows_the_batch() -> None:
    group, time = batching(max_batch_size=4096), StepTime(0.05, 1e-4)
    early = train(group, Noise(trace=50, square=1), time, 600)[-1]
    late = train(group, Noise(trace=5000, square=1), time, 3000)[-1]
    assert late > 4 * early


def test_a_fixed_batch_stays_whatever_is_measured() -> None:
    group = batching()
    assert set(train(group, Noise(trace=1e5, square=1), StepTime(1, 0), 500)) == {64}
    assert group.factor(64) == 1
    assert group.noise.value is not None
    assert group.noise.value.scale == pytest.approx(1e5)
    assert group.progress == pytest.approx(500)


def test_between_narrow_bounds_nothing_is_tried() -> None:
    group = batching(min_batch_size=60, max_batch_size=70)
    assert set(train(group, Noise(trace=1e5, square=1), StepTime(1, 0), 300)) == {64}


def test_ranks_that_see_the_same_numbers_decide_alike_and_a_newcomer_goes_on_with_them() -> None:
    noise, time = Noise(trace=700, square=1), StepTime(0.05, 1e-4)
    group = batching(learning_rate_rule="adascale", max_batch_size=4096)
    train(group, noise, time, 333)
    newcomer = batching(learning_rate_rule="adascale", max_batch_size=4096)
    newcomer.load_state_dict(json.loads(json.dumps(group.state_dict())))
    assert train(newcomer, noise, time, 500) == train(group, noise, time, 500)
    assert newcomer.state_dict() == group.state_dict()


def test_a_resize_keeps_what_is_known_and_goes_on_from_the_batch_of_before() -> None:
    noise, time = Noise(trace=700, square=1), StepTime(0.05, 1e-4)
    group = batching(max_batch_size=4096)
    before = train(group, noise, time, 600)[-1]
    state = copy.deepcopy(group.state_dict())
    group.resize(8)
    assert group.size == before
    assert {**group.state_dict(), "times": None, "steps": None, "world_size": 2} == {
        **state,
        "times": None,
        "steps": None,
    }
    # Four times the ranks: a row costs a quarter, so the best batch is twice as large, without a new trial.
    assert train(group, noise, StepTime(0.05, 2.5e-5), 300)[-1] == pytest.approx(2 * before, rel=0.3)
    # A checkpoint taken at two ranks and loaded at eight comes to the same.
    loaded = batching(max_batch_size=4096, world_size=8)
    loaded.load_state_dict(state)
    assert loaded.size == before
    assert train(loaded, noise, StepTime(0.05, 2.5e-5), 300)[-1] == group.size


def test_every_rank_gets_a_row() -> None:
    group = batching(base=4, min_batch_size=1, max_batch_size=16, world_size=2)
    group.resize(12)
    assert group.size == 12


@pytest.mark.parametrize(("bounds", "rarer"), [({"max_batch_size": 128}, 64), ({}, 256)])
def test_dear_measurements_are_made_less_often_and_of_a_fixed_batch_least(
    bounds: dict[str, Any], rarer: int
) -> None:
    group = batching(**bounds)
    assert [step for step in range(64) if group.due(step)] == [0, EVERY, 2 * EVERY, 3 * EVERY]
    for cost in (9.0, 0.2, 0.2):
        group.observe(rows=64, gradients=measured(Noise(trace=1, square=1), 64), cost=cost)
    assert [step for step in range(2 * rarer + 1) if group.due(step)] == [0, rarer, 2 * rarer]
    for _ in range(20):
        group.observe(rows=64, gradients=measured(Noise(trace=1, square=1), 64), cost=0.01)
    assert group.due(EVERY)
    alone = batching(world_size=1)
    assert [step for step in range(20) if alone.due(step)] == [0, 1, 16, 17]


def test_shares_keep_their_proportions_when_the_batch_changes() -> None:
    planner = RankPlanner(strategy=make_strategy("fixed", weights=(3.0, 1.0)), world_size=2, batch_size=64)
    for batch, rows in ((128, [96, 32]), (16, [12, 4]), (2, [1, 1])):
        planner.rebatch(batch)
        assert planner.rows(batch).tolist() == rows


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adam])
def test_a_rate_is_scaled_for_one_step_and_no_scheduler_sees_it(kind: type[torch.optim.Optimizer]) -> None:
    weight = torch.nn.Parameter(torch.ones(1))
    optimizer = kind([weight], lr=0.1)  # type: ignore[call-arg]
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
    weight.grad = torch.ones(1)
    with scaled(optimizer, 3.0):
        optimizer.step()
    schedule.step()
    assert float(weight.detach()) == pytest.approx(1 - 0.3)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.05)
    assert divides_by_root(optimizer) == (kind is torch.optim.Adam)


@given(positive, st.floats(1, 3))
def test_steps_that_cost_more_than_their_rows_say_have_no_fixed_part(per_row: float, more: float) -> None:
    times = StepTimes()
    for rows, seconds in ((27, per_row * 27), (115, per_row * 115 * more)):
        for _ in range(2 * EVERY):
            times.observe(rows, seconds)
    time = times.fit()
    assert time is not None
    # Not even by rounding: the best batch is a root of it.
    assert time.fixed >= 0
