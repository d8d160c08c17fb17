"""Rows A5, A6 and A9, the planner over ranks: it starts with its strategy's split, learns, finds the fast,
ignores tremble, follows change, and never lets ranks disagree.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import pytest
import torch

from cra_trainer.allocation.capability import CapabilityTracker
from cra_trainer.allocation.ranks import RankPlanner
from cra_trainer.allocation.shares import Floats, Ints
from cra_trainer.allocation.strategies import Attention, Nodes, Strategy, make_strategy


def train(
    planner: RankPlanner, seconds_per_row: Callable[[int], Floats], *, steps: int, fixed: float | Floats = 0.0
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


def optimum(batch: int, fixed: Floats, per_row: Floats) -> float:
    """T* = (B + Σ s_i/q_i) / Σ 1/q_i: the shortest step when rank i takes s_i + q_i·b_i.

    A rank whose fixed cost alone takes longer trains a single row, and the others share the rest.
    """
    left, taking_part = float(batch), np.ones(len(fixed), dtype=np.bool_)
    while True:
        end = (left + (fixed / per_row)[taking_part].sum()) / (1 / per_row)[taking_part].sum()
        too_slow = taking_part & (end < fixed + per_row)
        if not too_slow.any():
            return float(max(end, (fixed + per_row)[~taking_part].max(initial=0)))
        taking_part &= ~too_slow
        left = batch - float((~taking_part).sum())


@pytest.mark.parametrize("seed", range(6))
def test_fixed_costs_and_speeds_of_any_kind_end_in_the_shortest_step_there_is(seed: int) -> None:
    random = np.random.default_rng(seed)
    ranks = int(random.integers(2, 9))
    fixed, per_row = random.uniform(0, 0.05, ranks), 1e-3 * np.exp(random.uniform(-1, 1, ranks))
    group = planner(world_size=ranks, batch_size=1000)
    durations = train(group, lambda _: per_row, steps=150, fixed=fixed)
    assert durations[-1] == pytest.approx(optimum(1000, fixed, per_row), rel=0.03)


def test_a_rank_that_cannot_keep_up_with_any_rows_trains_a_single_one() -> None:
    group = planner(world_size=3)
    train(group, lambda _: np.array([1e-3, 1e-3, 1e-3]), steps=150, fixed=np.array([0.0, 0.0, 0.5]))
    assert group.rows(192)[2] <= 2


def test_the_split_is_right_a_few_steps_after_a_start_a_change_and_a_resize() -> None:
    group = planner(world_size=3)
    train(group, lambda _: np.array([1e-3, 3e-3, 3e-3]), steps=7)
    assert group.rows(192) == pytest.approx([115, 38, 38], abs=2)
    train(group, lambda _: np.array([1e-3, 1e-3, 3e-3]), steps=6)
    assert group.rows(192) == pytest.approx([82, 82, 27], abs=2)
    group.resize([0, 2, -1])
    # Nothing is known of the newcomer: it gets what the others get in the mean.
    assert group.rows(192) == pytest.approx([94, 31, 67], abs=14)
    train(group, lambda _: np.array([1e-3, 3e-3, 1e-3]), steps=7)
    assert group.rows(192) == pytest.approx([82, 27, 82], abs=2)


@pytest.mark.parametrize(("per_row", "steps"), [(1e-3, 7), (0.1, 3)], ids=["short", "long"])
def test_shares_have_settled_once_they_follow_from_measured_speeds(per_row: float, steps: int) -> None:
    group = planner()
    taken = 0
    while not group.settled:
        train(group, lambda _: per_row * np.array([1.0, 3.0]), steps=1)
        taken += 1
    assert group.rows(192) == pytest.approx([144, 48], abs=2)
    assert taken <= steps
    group.resize([0, 1, -1])
    assert not group.settled


def test_shares_that_no_speed_changes_have_settled_too() -> None:
    assert planner(world_size=1).settled
    for strategy in ("uniform", "round-robin"):
        group = planner(strategy)
        train(group, lambda _: np.array([1e-3, 3e-3]), steps=12)
        assert group.settled


def test_a_newcomer_that_is_slow_at_first_soon_gets_what_its_speed_earns() -> None:
    group = planner(batch_size=200)
    train(group, lambda _: np.array([1e-3, 1e-3]), steps=30)
    group.resize([0, -1])
    # Its first eight steps take ten times as long; after them it has 0.22 of the other's speed.
    pace = np.concatenate((np.full(8, 10.0), np.ones(200))) * 1e-3 / 0.22
    train(group, lambda step: np.array([1e-3, pace[step]]), steps=25)
    assert group.rows(200)[1] == pytest.approx(200 * 0.22 / 1.22, abs=4)


def test_short_steps_are_measured_several_at_a_time_to_the_same_end() -> None:
    group = planner()
    train(group, lambda _: np.array([1e-5, 3e-5]), steps=300)
    assert group.rows(192) == pytest.approx([144, 48], abs=2)


def test_scores_that_make_steps_longer_are_not_used_but_learn_on() -> None:
    group = planner()
    misled = Attention()
    torch.nn.init.constant_(misled.scorer.gain, 5.0)
    misled.advantage = 0.02
    group = planner(misled)
    durations = train(group, lambda _: np.array([1e-3, 3e-3]), steps=400)
    best = 192 / (1 / 1e-3 + 1 / 3e-3)
    assert max(durations[10:40]) > 1.05 * best
    assert durations[-1] == pytest.approx(best, rel=0.02)
    assert misled.advantage <= 0


def test_scores_that_save_time_are_used() -> None:
    random, strategy = np.random.default_rng(0), Attention()
    group = planner(strategy)
    train(group, lambda _: 1e-3 * np.array([1.0, np.exp(0.4 * random.standard_normal())]), steps=3000)
    assert strategy.advantage > 0
    noise = np.exp(0.4 * np.random.default_rng(2).standard_normal(20_000))
    expected = [
        np.maximum(96 + moved, (96 - moved) * noise).mean() for moved in (0, 192 // 2 - group.rows(192)[1])
    ]
    assert expected[1] < expected[0]


@pytest.mark.parametrize(
    ("fixed", "jitter"), [(0.0, 0.3), (1e-3, 0.05), (1e-3, 0.3), (3e-3, 0.05), (3e-3, 0.3)]
)
def test_a_slow_rank_among_fast_ones_gets_what_makes_the_expected_step_shortest(
    fixed: float, jitter: float
) -> None:
    random, speed = np.random.default_rng(1), np.array([1.0, 0.25])
    group = planner(batch_size=64)
    noise = np.exp(jitter * np.random.default_rng(2).standard_normal((20_000, 2)))

    def expected(rows: Ints) -> float:
        return float(((fixed + 2e-4 * rows) / speed * noise).max(axis=1).mean())

    for _ in range(2500):
        rows = group.rows(64)
        seconds = (fixed + 2e-4 * rows) / speed * np.exp(jitter * random.standard_normal(2))
        group.observe(rows, seconds, np.full(2, float(group.digest)))
    best = min(expected(np.array([64 - rows, rows])) for rows in range(1, 33))
    # By speed alone, 13 rows of 64, it is 6 to 45 % longer; with equal mean times up to 6 %.
    assert expected(group.rows(64)) < 1.03 * best


def test_a_rank_gets_no_more_rows_than_its_memory_holds() -> None:
    group, held = planner(batch_size=400), 0
    for _ in range(100):
        rows = group.rows(400)
        held = max(held, int(rows[0]))
        # A row of rank 0 takes a 300th of its memory, and what is left when it is empty a 20th.
        room = np.array([1 - 0.05 - held / 300, 1.0])
        assert room[0] > 0
        group.observe(rows, rows * np.array([1e-3, 3e-3]), np.full(2, float(group.digest)), room)
    # Its speed alone would earn it 300; what it holds comes close to its 285.
    assert 250 < group.rows(400)[0] <= 285


def test_a_rank_without_memory_left_gives_rows_away_only_if_another_has_room() -> None:
    group = planner(batch_size=100)
    for _ in range(20):
        rows = group.rows(100)
        group.observe(rows, np.asarray(rows * 1e-3), np.full(2, float(group.digest)), np.zeros(2))
    assert group.rows(100).tolist() == [50, 50]


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


@pytest.mark.parametrize("learn", ["gradient", "reward"])
def test_attention_learns_to_give_less_to_a_rank_whose_time_varies(
    learn: Literal["gradient", "reward"],
) -> None:
    random = np.random.default_rng(0)
    nodes = Nodes(
        capability=np.array([1000.0, 1000.0]),
        features=np.array([[0.0, 0.0, 1.0, 0.2, 0.0], [0.0, 0.4, 1.0, 0.1, 0.0]]),
        demand=np.array([1.0, 0.6, 0.2]),
        parameters=np.ones(2),
        data=np.ones(2),
        most=np.ones(2),
    )

    def unit_seconds(steps: int) -> Floats:
        return 1e-3 * np.stack((np.ones(steps), np.exp(0.4 * random.standard_normal(steps))), axis=1)

    strategy = Attention(learn=learn)
    before = strategy.allocate(nodes)
    for _ in range(200):
        strategy.learn(nodes, unit_seconds(10), np.zeros((10, 2)))
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
        ("round-robin", {}, [50, 50, 50, 50]),
        ("priority", {"weights": [1, 1, 1, 2]}, [40, 40, 40, 80]),
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
    for name in ("uniform", "random", "parameters", "data", "round-robin"):
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
