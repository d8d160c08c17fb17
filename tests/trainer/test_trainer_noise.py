"""The gradient noise scale: unbiased for any split, steady, and carried over."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from cra_trainer.noise import ENOUGH, Gradients, NoiseScale, estimate
from cra_trainer.probe import Probe
from tests.trainer.scripts import make_dataset, make_model

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


def losses(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return functional.cross_entropy(model(x), y, reduction="none")


def gradient(model: nn.Module, loss: Tensor) -> Tensor:
    """The gradient of `loss`, [n]; also left in the parameters."""
    model.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def test_the_probe_of_several_ranks_measures_what_the_estimate_asks_for() -> None:
    model, dataset = make_model(), make_dataset(20)
    x, y, _ = dataset.tensors
    rows = np.array([12, 0, 8])
    replicas = [copy.deepcopy(model) for _ in rows]
    probes = [Probe(one.parameters(), rank=rank, world_size=3) for rank, one in enumerate(replicas)]
    parts = [slice(0, 12), slice(12, 12), slice(12, 20)]
    whole = gradient(model, losses(model, x, y).mean())
    for probe, replica, part in zip(probes, replicas, parts, strict=True):
        probe.begin(rows, measure=True)
        probe.last_piece()
        # As the session weighs it: three times this rank's part of the global mean, for DDP's mean of three.
        gradient(replica, losses(replica, x[part], y[part]).sum() * (3 / 20))
        for mine, reduced in zip(replica.parameters(), model.parameters(), strict=True):
            mine.grad = reduced.grad
        probe.reduced()
        assert probe.of == (2, 20)
    local = 0.6 * gradient(model, losses(model, x[:12], y[:12]).mean()).square().sum()
    local += 0.4 * gradient(model, losses(model, x[12:], y[12:]).mean()).square().sum()
    told = torch.stack([probe.told for probe in probes if probe.told is not None]).square()
    assert float(told[:, 0].sum()) == pytest.approx(float(local), rel=1e-5)
    assert float(told[0, 1]) == pytest.approx(float(whole.square().sum()), rel=1e-5)
    probes[0].begin(rows, measure=False)
    assert probes[0].told is None


@pytest.mark.parametrize("kept", [2**22, 60])
def test_the_probe_of_one_rank_takes_two_steps_for_two_parts(
    monkeypatch: pytest.MonkeyPatch, kept: int
) -> None:
    monkeypatch.setattr("cra_trainer.probe.KEPT", kept)
    model, dataset = make_model(), make_dataset(20)
    x, y, _ = dataset.tensors
    probe = Probe(model.parameters(), rank=0, world_size=1)
    parts = [gradient(model, losses(model, x[part], y[part]).mean()) for part in (slice(5), slice(5, 20))]
    told = []
    for _ in range(200 if kept == 60 else 1):
        for part, rows in ((slice(5), 5), (slice(5, 20), 15)):
            probe.begin(np.array([rows]), measure=True)
            gradient(model, losses(model, x[part], y[part]).mean())
            probe.reduced()
        assert probe.of == (2, 20)
        assert probe.told is not None
        told.append(probe.told.square())
    local = 0.25 * parts[0].square().sum() + 0.75 * parts[1].square().sum()
    whole = (0.25 * parts[0] + 0.75 * parts[1]).square().sum()
    expected = pytest.approx([float(local), float(whole)], rel=0.1 if kept == 60 else 1e-5)
    assert torch.stack(told).mean(0).tolist() == expected


def test_a_gradient_is_compared_with_that_of_the_very_step_before() -> None:
    model, dataset = make_model(), make_dataset(20)
    x, y, _ = dataset.tensors
    probe = Probe(model.parameters(), rank=0, world_size=1)
    for measure in (True, False, True):
        probe.begin(np.array([20]), measure=measure)
        gradient(model, losses(model, x, y).mean())
        probe.reduced()
        assert probe.told is None
