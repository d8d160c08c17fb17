"""The gradient noise scale: unbiased for any split, steady, and carried over."""

from __future__ import annotations

import math

import numpy as np
import pytest

from cra_trainer.noise import ENOUGH, Gradients, NoiseScale, estimate

TRACE, SQUARE, WIDTH = 100.0, 1.0, 200


def draw(random: np.random.Generator, rows: list[int], trials: int) -> list[Gradients]:
    """Measured gradients of parts of so many rows each, with trΣ = 100 and |G|² = 1."""
    counts = np.array(rows, dtype=np.float64)
    truth = np.full(WIDTH, math.sqrt(SQUARE / WIDTH))
    noise = random.normal(size=(trials, len(rows), WIDTH)) * np.sqrt(TRACE / WIDTH / counts)[:, None]
    parts = truth + noise
    weights = counts / counts.sum()
    local = ((parts**2).sum(2) * weights).sum(1)
    whole = ((parts * weights[:, None]).sum(1) ** 2).sum(1)
    return [
        Gradients(parts=len(rows), rows=sum(rows), local=float(a), whole=float(t))
        for a, t in zip(local, whole, strict=True)
    ]


@pytest.mark.parametrize("rows", [[96, 96], [144, 48], [160, 20, 12], [1, 191]])
def test_the_estimate_is_unbiased_however_unequal_the_parts_are(rows: list[int]) -> None:
    estimates = [estimate(one) for one in draw(np.random.default_rng(1), rows, trials=5000)]
    assert np.mean([one.trace for one in estimates]) == pytest.approx(TRACE, rel=0.05)
    assert np.mean([one.square for one in estimates]) == pytest.approx(SQUARE, rel=0.05)


def test_the_running_estimate_finds_the_noise_scale_and_follows_it() -> None:
    running, random = NoiseScale(), np.random.default_rng(2)
    assert running.value is None
    for i, one in enumerate(draw(random, [160, 20, 12], trials=60)):
        assert running.known == (i >= ENOUGH)
        running.observe(one)
    assert running.value is not None
    assert running.value.scale == pytest.approx(TRACE / SQUARE, rel=0.3)
    # The gradient has fallen to a third: φ is nine times what it was.
    for one in draw(random, [96, 96], trials=200):
        running.observe(Gradients(parts=2, rows=192, local=one.local - 8 / 9, whole=one.whole - 8 / 9))
    assert running.value.scale == pytest.approx(9 * TRACE / SQUARE, rel=0.5)


def test_the_first_estimate_counts_in_full() -> None:
    running = NoiseScale()
    one = Gradients(parts=2, rows=10, local=3.0, whole=2.0)
    running.observe(one)
    assert running.value == estimate(one)


def test_a_state_goes_on_as_if_nothing_had_been() -> None:
    drawn = draw(np.random.default_rng(3), [10, 30], trials=20)
    running, other = NoiseScale(), NoiseScale()
    for one in drawn[:10]:
        running.observe(one)
    other.load_state_dict(running.state_dict())
    for one in drawn[10:]:
        running.observe(one)
        other.observe(one)
    assert other.value == running.value


@pytest.mark.parametrize("local", [math.inf, math.nan])
def test_an_overflow_is_passed_over(local: float) -> None:
    running = NoiseScale()
    running.observe(Gradients(parts=2, rows=10, local=local, whole=1.0))
    assert running.value is None


def test_a_gradient_that_drowns_in_noise_has_an_infinite_scale() -> None:
    assert estimate(Gradients(parts=2, rows=10, local=10.0, whole=1.0)).scale == math.inf
    assert estimate(Gradients(parts=2, rows=10, local=1.0, whole=1.0)).scale == 0
