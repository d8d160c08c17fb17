"""Speeds at sizes that were never tried, from those that were."""

from __future__ import annotations

import numpy as np
import pytest

from cra_operator.controller.policy import Sizes
from cra_operator.controller.speed import SpeedPoint, efficiency, fit, fit_all, goodput

NODE = 4
TRUTH = (0.02, 0.001, 0.01, 0.002, 0.03, 0.002, 2.0)


def true_step(gpus: int, batch: int, truth: tuple[float, ...] = TRUTH) -> float:
    """Pollux's model, as its paper writes it, on nodes of four GPUs."""
    a_c, b_c, a_r, b_r, a_n, b_n, g = truth
    grad = a_c + b_c * batch / gpus
    more = max(gpus - 2, 0)
    sync = 0.0 if gpus == 1 else a_r + b_r * more if gpus <= NODE else a_n + b_n * more
    return float((grad**g + sync**g) ** (1 / g))


def point(gpus: int, seconds: float, *, batch: int = 256, kind: int = 0) -> SpeedPoint:
    return SpeedPoint(gpus=gpus, nodes=-(-gpus // NODE), kind=kind, batch=batch, step_seconds=seconds)


def sizes(*gpus: int, kind: int = 0) -> Sizes:
    columns = np.array([0, *gpus])
    return Sizes(gpus=columns, nodes=-(-columns // NODE), kind=np.where(columns > 0, kind, 0))


def noisy(rng: np.random.Generator, truth: tuple[float, ...] = TRUTH) -> list[SpeedPoint]:
    return [
        point(gpus, true_step(gpus, batch, truth) * float(np.exp(0.02 * rng.normal())), batch=batch)
        for gpus in (1, 2, 4, 8, 16)
        for batch in (128, 256)
    ]


def test_sizes_between_the_measured_ones_are_predicted_from_noisy_times() -> None:
    between = (3, 6, 12)
    for seed in range(5):
        model = fit(noisy(np.random.default_rng(seed)))
        seconds = model.step_seconds(sizes(*between), 200)[1:]
        assert seconds == pytest.approx([true_step(gpus, 200) for gpus in between], rel=0.06)


def test_a_job_seen_on_one_gpu_promises_to_scale() -> None:
    model = fit([point(1, 0.3)])
    gain = model.throughput(sizes(1, 2, 4, 8), 256)[1:] * 0.3
    assert gain[1] > 1.6
    assert gain[2] > 2.4
    assert gain[3] > 3


def test_what_more_gpus_promise_shrinks_once_they_were_tried_in_vain() -> None:
    hopeful = fit([point(1, 0.3)]).throughput(sizes(4), 256)[1]
    sober = fit([point(1, 0.3), point(2, 0.29)]).throughput(sizes(4), 256)[1]
    assert sober < 0.5 * hopeful


def test_time_spent_waiting_for_peers_tells_that_one_gpu_wastes_none() -> None:
    at_two = SpeedPoint(gpus=2, nodes=1, kind=0, batch=256, step_seconds=0.3, compute_seconds=0.2)
    alone = fit([at_two]).step_seconds(sizes(1), 256)[1]
    assert 0.33 < alone <= 2 * 0.2
    assert fit([point(2, 0.3)]).step_seconds(sizes(1), 256)[1] > 0.48


def test_a_measured_size_is_predicted_as_measured() -> None:
    rng = np.random.default_rng(7)
    measured = [point(gpus, float(rng.uniform(0.1, 1.0))) for gpus in (1, 2, 3, 5, 8)]
    seconds = fit(measured).step_seconds(sizes(1, 2, 3, 5, 8), 256)[1:]
    assert seconds == pytest.approx([p.step_seconds for p in measured])


def test_a_measured_size_at_another_batch_is_no_worse_than_its_nearest_measurement() -> None:
    model = fit([point(gpus, true_step(gpus, m), batch=m) for gpus in (1, 2, 4, 8, 16) for m in (128, 256)])
    for batch in (64, 190, 512):
        predicted = model.step_seconds(sizes(1, 4, 16), batch)[1:]
        for gpus, seconds in zip((1, 4, 16), predicted, strict=True):
            nearest = true_step(gpus, 128 if batch < 181 else 256)
            truth = true_step(gpus, batch)
            assert abs(np.log(seconds / truth)) <= abs(np.log(nearest / truth)) + 0.005


def test_one_size_on_two_nodes_does_not_say_that_more_nodes_are_worse() -> None:
    known = [point(1, 0.40), point(2, 0.24), point(4, 0.15), point(8, 0.30)]
    predicted = fit(known).step_seconds(sizes(16), 256)[1]
    assert predicted == pytest.approx(0.30, rel=0.3)


def test_several_times_of_one_size_count_as_their_geometric_mean() -> None:
    seconds = fit([point(2, 0.2), point(2, 0.8), point(1, 0.5)]).step_seconds(sizes(2), 256)
    assert seconds[1] == pytest.approx(0.4)


def test_a_type_measured_at_one_size_scales_like_the_type_known_best() -> None:
    slow = [point(gpus, true_step(gpus, 256)) for gpus in (1, 2, 4)]
    model = fit([*slow, point(1, true_step(1, 256) / 3, kind=1)])
    expected = [true_step(gpus, 256) / 3 for gpus in (1, 2, 4)]
    assert model.step_seconds(sizes(1, 2, 4, kind=1), 256)[1:] == pytest.approx(expected, rel=0.02)


def test_a_type_never_seen_is_taken_for_the_type_known_best() -> None:
    model = fit([point(gpus, true_step(gpus, 256)) for gpus in (1, 2, 4)])
    seen, unseen = (model.step_seconds(sizes(1, 2, 4, kind=kind), 256)[1:] for kind in (0, 1))
    assert unseen == pytest.approx(seen, rel=0.02)


def test_many_jobs_together_come_out_as_one_by_one() -> None:
    rng = np.random.default_rng(1)
    jobs = [noisy(rng), [point(1, 0.3)], [point(2, 0.5), point(1, 0.7, kind=1)]]
    columns = sizes(1, 2, 3, 4, 8, 16)
    for model, points in zip(fit_all(jobs), jobs, strict=True):
        alone = fit(points).step_seconds(columns, 256)[1:]
        assert model.step_seconds(columns, 256)[1:] == pytest.approx(alone, rel=0.02)


def test_no_gpus_make_no_steps() -> None:
    assert fit([point(1, 0.3)]).throughput(sizes(1), 256)[0] == 0


def test_a_batch_may_be_given_for_each_size() -> None:
    model = fit(noisy(np.random.default_rng(0)))
    columns = sizes(3, 6)
    each = model.step_seconds(columns, np.array([[128.0], [256.0]]))
    assert each[0] == pytest.approx(model.step_seconds(columns, 128))
    assert each[1] == pytest.approx(model.step_seconds(columns, 256))


@pytest.mark.parametrize("points", [[], [point(1, 0.0)], [point(0, 0.3)], [point(1, float("inf"))]])
def test_points_that_say_nothing_are_refused(points: list[SpeedPoint]) -> None:
    with pytest.raises(ValueError, match="point"):
        fit(points)


def test_goodput_counts_steps_of_the_own_batch() -> None:
    # phi = 100: a batch of 300 instead of 100 is worth 3 * (100 + 100) / (100 + 300) = 1.5 own steps.
    assert efficiency(300, 100, 100) == pytest.approx(0.5)
    assert goodput(2.0, 300, 100, 100) == pytest.approx(3.0)
    assert goodput(2.0, 100, 100, 0) == pytest.approx(2.0)
    assert goodput(2.0, 300, 100, 0) == pytest.approx(2.0)
