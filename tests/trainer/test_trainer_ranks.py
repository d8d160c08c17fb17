"""The planner over ranks: finds the fast, ignores tremble, follows change, never lets ranks disagree."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from cra_trainer.allocation.capability import CapabilityTracker
from cra_trainer.allocation.ranks import RankPlanner
from cra_trainer.allocation.shares import Floats, Ints
from cra_trainer.allocation.strategies import Attention, Nodes, Strategy, make_strategy


def train(
    planner: RankPlanner, seconds_per_row: Callable[[int], Floats], *, steps: int, fixed: float = 0.0
) -> list[float]:
    """Steps of a group whose rank i takes fixed + rows·seconds_per_row; returns the duration of each."""
    durations = []
    for step in range(steps):
        rows = planner.rows(planner.batch_size)
        seconds = fixed + rows * seconds_per_row(step)
        planner.observe(rows, seconds, np.full(len(rows), float(planner.digest)))
        durations.append(float(seconds.max()))
    return durations


def planner(
    strategy: Strategy | str = "attention", *, world_size: int = 2, batch_size: int = 192
) -> RankPlanner:
    made = make_strategy(strategy) if isinstance(strategy, str) else strategy
    return RankPlanner(strategy=made, world_size=world_size, batch_size=batch_size)


def test_training_starts_with_an_even_split() -> None:
    assert planner().rows(192).tolist() == [96, 96]


def test_a_rank_three_times_slower_gets_a_quarter() -> None:
    group = planner()
    durations = train(group, lambda _: np.array([1e-3, 3e-3]), steps=60)
    assert group.rows(192) == pytest.approx([144, 48], abs=2)
    # The best there is: mean(c) / min(c) = 2.
    assert durations[0] / durations[-1] > 1.95


def test_a_fixed_cost_per_step_still_ends_in_equal_times() -> None:
    group = planner()
    durations = train(group, lambda _: np.array([1e-3, 3e-3]), steps=150, fixed=0.03)
    # T* = (B + Σ s_i/q_i) / Σ 1/q_i
    best = (192 + 0.03 / 1e-3 + 0.03 / 3e-3) / (1 / 1e-3 + 1 / 3e-3)
    assert durations[-1] == pytest.approx(best, rel=0.02)


def test_the_split_follows_a_rank_that_slows_down_and_recovers() -> None:
    group = planner()
    slow_for = range(60, 120)
    train(group, lambda step: np.array([1e-3, 3e-3 if step in slow_for else 1e-3]), steps=110)
    assert group.rows(192) == pytest.approx([144, 48], abs=3)
    train(group, lambda _: np.array([1e-3, 1e-3]), steps=60)
    assert group.rows(192) == pytest.approx([96, 96], abs=3)


def test_tremble_moves_nothing() -> None:
    group, random = planner(world_size=4), np.random.default_rng(0)
    plans = set()
    for _ in range(30):
        train(group, lambda _: 1e-3 * random.uniform(0.99, 1.01, 4), steps=10)
        plans.add(tuple(group.rows(192)))
    assert plans == {(48, 48, 48, 48)}


def test_attention_learns_to_give_less_to_a_rank_whose_time_varies() -> None:
    random = np.random.default_rng(0)
    nodes = Nodes(
        capability=np.array([1000.0, 1000.0]),
        features=np.array([[0.0, 0.0, 0.2], [0.0, 0.4, 0.1]]),
        demand=np.array([1.0, 0.6, 0.2]),
        parameters=np.ones(2),
        data=np.ones(2),
    )

    def unit_seconds(steps: int) -> Floats:
        return 1e-3 * np.stack((np.ones(steps), np.exp(0.4 * random.standard_normal(steps))), axis=1)

    strategy = Attention()
    before = strategy.allocate(nodes)
    for _ in range(200):
        strategy.learn(nodes, unit_seconds(10))
    after = strategy.allocate(nodes)
    assert before.shares.tolist() == [0.5, 0.5]
    # The optimum, where E[u_i; i is the slower] is the same for both: ln(p_0 / p_1) = 0.1.
    assert np.log(after.shares[0] / after.shares[1]) == pytest.approx(0.1, abs=0.06)
    fresh = unit_seconds(100_000)
    assert (after.shares * fresh).max(axis=1).mean() < (before.shares * fresh).max(axis=1).mean()


def test_a_smaller_last_batch_keeps_the_proportions_and_may_leave_a_rank_out() -> None:
    group = planner(make_strategy("fixed", weights=[3, 1]), batch_size=100)
    assert group.rows(100).tolist() == [75, 25]
    assert group.rows(10).tolist() in ([8, 2], [7, 3])
    assert group.rows(1).tolist() == [1, 0]


def test_ranks_that_computed_different_plans_keep_the_old_one() -> None:
    group = planner()
    while not group.digest:
        rows = group.rows(192)
        group.observe(rows, np.asarray(rows * np.array([1e-3, 3e-3])), np.zeros(2))
    rows = group.rows(192)
    group.observe(rows, np.asarray(rows * 1e-3), np.array([group.digest, group.digest % 256 + 1.0]))
    assert group.rows(192).tolist() == [96, 96]
    assert group.digest == 0


def test_a_plan_is_adopted_only_when_all_ranks_have_told_it() -> None:
    group = planner()
    while not group.digest:
        rows = group.rows(192)
        group.observe(rows, np.asarray(rows * np.array([1e-3, 3e-3])), np.zeros(2))
    rows = group.rows(192)
    group.observe(rows, np.asarray(rows * np.array([1e-3, 3e-3])), np.zeros(2))
    assert group.rows(192).tolist() == [96, 96]
    group.observe(rows, np.asarray(rows * np.array([1e-3, 3e-3])), np.full(2, float(group.digest)))
    assert group.rows(192) == pytest.approx([144, 48], abs=3)


def test_a_saved_plan_is_taken_up_by_as_many_ranks_and_its_learning_by_any() -> None:
    group = planner()
    train(group, lambda _: np.array([1e-3, 3e-3]), steps=60)
    same, more = planner(), planner(world_size=3)
    same.load_state_dict(group.state_dict())
    more.load_state_dict(group.state_dict())
    assert same.rows(192).tolist() == group.rows(192).tolist()
    assert same.capability == pytest.approx(group.capability)
    assert more.rows(192).tolist() == [64, 64, 64]


def test_a_batch_smaller_than_the_group_is_refused() -> None:
    with pytest.raises(ValueError, match="batchSize 3"):
        planner(world_size=4, batch_size=3)


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("uniform", {}, [50, 50, 50, 50]),
        ("parameters", {}, [50, 50, 50, 50]),
        ("data", {}, [50, 50, 50, 50]),
        ("fixed", {"weights": [1, 2, 3, 4]}, [20, 40, 60, 80]),
        ("attention", {}, [50, 50, 50, 50]),
    ],
)
def test_each_strategy_starts_with_its_split(
    name: str, options: dict[str, list[float]], expected: list[int]
) -> None:
    group = RankPlanner(strategy=make_strategy(name, **options), world_size=4, batch_size=200)  # type: ignore[arg-type]
    assert group.rows(200).tolist() == expected
    assert group.allocation.weights.sum() == pytest.approx(1)


def test_the_random_strategy_follows_its_seed() -> None:
    def rows(seed: int) -> tuple[int, ...]:
        made = make_strategy("random", seed=seed)
        return tuple(RankPlanner(strategy=made, world_size=4, batch_size=200).rows(200))

    assert rows(1) == rows(1) != rows(2)


def test_only_attention_moves_with_the_measured_speed() -> None:
    for name in ("uniform", "random", "parameters", "data"):
        group = planner(name)
        before = group.rows(192).tolist()
        train(group, lambda _: np.array([1e-3, 3e-3]), steps=60)
        assert group.rows(192).tolist() == before


def steps_until(tracker: CapabilityTracker, rows: Ints, seconds: Floats, expected: Floats) -> int:
    for step in range(1, 50):
        tracker.update(rows, seconds)
        if np.allclose(tracker.samples_per_second, expected, rtol=0.01):
            return step
    return 50


def test_a_lasting_change_of_speed_is_believed_after_three_steps() -> None:
    tracker, rows = CapabilityTracker(2), np.array([100, 100])
    random = np.random.default_rng(0)
    for _ in range(50):
        tracker.update(rows, random.uniform(0.99, 1.01, 2))
    assert tracker.samples_per_second == pytest.approx([100, 100], rel=0.01)
    assert steps_until(tracker, rows, np.array([1.0, 3.0]), np.array([100, 100 / 3])) == 3


def test_one_slow_step_is_noise() -> None:
    tracker, rows = CapabilityTracker(1), np.array([100])
    for _ in range(20):
        tracker.update(rows, np.array([1.0]))
    tracker.update(rows, np.array([1.5]))
    for _ in range(10):
        tracker.update(rows, np.array([1.0]))
    assert tracker.samples_per_second == pytest.approx([100], rel=0.02)


def test_a_rank_without_rows_is_not_measured() -> None:
    tracker = CapabilityTracker(2)
    tracker.update(np.array([10, 0]), np.array([1.0, 1.0]))
    assert tracker.samples_per_second.tolist() == [pytest.approx(10), 0]
    assert not tracker.known


def test_variation_is_the_spread_of_the_time_per_sample() -> None:
    tracker, random = CapabilityTracker(1), np.random.default_rng(0)
    seen = []
    for _ in range(500):
        tracker.update(np.array([100]), np.exp(0.2 * random.standard_normal(1)))
        seen.append(float(tracker.variation[0]))
    assert np.median(seen[100:]) == pytest.approx(0.2, rel=0.3)
