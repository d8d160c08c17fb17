"""Row B7: the gate that lets a cut wait is tuned by the gain that followed, and by nothing else."""

from __future__ import annotations

import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from cra_trainer.allocation.layers import LayerCut
from cra_trainer.allocation.waiting import LEAST, RATE, Gain, WaitGate
from tests.trainer.test_trainer_layers import network, train


def fall(gate: WaitGate, gain: float, steps: int = 5) -> None:
    """Steps of 0.1 s in which the loss falls by the part `gain` of itself per second."""
    for step in range(steps):
        gate.observe((1.0 - gain * 0.1 * (step - (steps - 1) / 2), 0.1))


def tuned(*, waiting_gains: bool, choices: int = 200, seed: int = 0) -> WaitGate:
    """A gate after choices where waiting was followed by more gain than before, or by less."""
    gate = WaitGate(seed)
    for _ in range(choices):
        fall(gate, 0.2)
        gate.learn()
        waited = gate.wait(0.1)
        fall(gate, 0.3 if waited == waiting_gains else 0.1)
        gate.learn()
    return gate


def test_a_gain_is_the_fall_of_the_loss_per_second_as_a_part_of_it() -> None:
    gain = Gain()
    for step in range(10):
        gain.observe(4.0 - 0.2 * step, 0.5)
    # 0.4 per second, of 3.1 in the mean.
    assert gain.value == pytest.approx(0.4 / 3.1)
    gain.forget()
    gain.observe(1.0, 0.1)
    gain.observe(0.9, 0.1)
    assert gain.value is None


@given(st.lists(st.tuples(st.floats(-5, 5), st.floats(0, 2)), max_size=20))
def test_whatever_was_measured_a_gain_is_a_number_or_unknown(steps: list[tuple[float, float]]) -> None:
    gain = Gain()
    for loss, seconds in steps:
        gain.observe(round(loss, 3), round(seconds, 3))
    assert gain.value is None or math.isfinite(gain.value)


def test_an_untuned_gate_waits_where_the_rule_does() -> None:
    gate = WaitGate(0)
    assert gate.probability(0.0) == 0.5
    assert gate.probability(1.0) > 0.9
    assert gate.probability(-1.0) < 0.1
    assert gate.probability(-math.inf) == pytest.approx(LEAST)
    assert gate.probability(math.inf) == pytest.approx(1 - LEAST)


@pytest.mark.parametrize("seed", range(5))
def test_a_gate_learns_to_wait_where_waiting_gained_and_not_to_where_it_cost(seed: int) -> None:
    before = WaitGate(seed).probability(0.1)
    patient, eager = (tuned(waiting_gains=gains, seed=seed) for gains in (True, False))
    assert patient.probability(0.1) > 0.9 > before
    assert eager.probability(0.1) < 0.2 < before
    assert patient.probability(0.1) <= 1 - LEAST


def test_one_reward_moves_the_parameters_by_the_rule() -> None:
    gate = WaitGate(3)
    fall(gate, 0.1)
    gate.learn()
    p, waited = gate.probability(0.5), gate.wait(0.5)
    fall(gate, 0.3)
    gate.learn()
    moved = RATE * (0.3 - 0.1) / (0.3 + 0.1) * (waited - p)
    assert gate.bias == pytest.approx(moved)
    assert gate.weight == pytest.approx(4 + 0.5 * moved)
    assert gate.explain()["rewarded"] == 1


def test_nothing_is_learned_across_groups_of_ranks() -> None:
    gate = WaitGate(0)
    fall(gate, 0.1)
    gate.learn()
    gate.wait(0.5)
    fall(gate, 0.3)
    gate.observe(None)
    fall(gate, 0.9)
    gate.learn()
    assert (gate.weight, gate.bias, gate.explain()["rewarded"]) == (4, 0, 0)


def test_a_step_whose_loss_overflowed_tells_nothing() -> None:
    gates = [WaitGate(0), WaitGate(0)]
    for gate in gates:
        fall(gate, 0.1)
        gate.learn()
        gate.wait(0.5)
        if gate is gates[1]:
            gate.observe((math.inf, 0.1))
            gate.observe((math.nan, 0.1))
        fall(gate, 0.3)
        gate.learn()
    assert gates[0].state_dict() == gates[1].state_dict()


def cut_and_gate(seed: int = 1) -> tuple[nn.Module, LayerCut, WaitGate]:
    torch.manual_seed(0)
    gate, model = WaitGate(seed), network()
    return model, LayerCut(model, 0.6, gate), gate


def test_the_budget_is_kept_whatever_the_gate_draws() -> None:
    for seed in range(10):
        model, layers, gate = cut_and_gate(seed)
        cuts = train(model, layers, 200, losses=[1 / (step + 1) for step in range(200)])
        assert cuts == sorted(cuts)
        assert cuts[-1] > 0
        assert layers.state_dict()["spent"] <= 0.6 + 0.06
        assert gate.choices > 0


def test_two_ranks_with_the_same_numbers_draw_and_learn_the_same_also_after_a_checkpoint() -> None:
    losses = [1 / (step + 1) for step in range(100)]
    model, layers, gate = cut_and_gate()
    whole = train(model, layers, 100, losses=losses)

    model, layers, _ = cut_and_gate()
    first = train(model, layers, 100, losses=losses, until=47)
    state = json.loads(json.dumps(layers.state_dict()))
    again = WaitGate(1)
    layers = LayerCut(model, 0.6, again)
    layers.load_state_dict(state)
    assert layers.explain()["decisions"] == state["decisions"]
    assert first + train(model, layers, 100, losses=losses, since=47) == whole
    assert again.explain() == gate.explain()
    assert again.explain()["rewarded"] > 0


def test_what_was_learned_is_told() -> None:
    model, layers, gate = cut_and_gate()
    train(model, layers, 100, losses=[1 / (step + 1) for step in range(100)])
    assert layers.explain()["gate"] == gate.explain()
    assert layers.explain()["gate"]["choices"] == gate.choices > 0
    assert "gate" not in LayerCut(network(), 0.5).explain()
