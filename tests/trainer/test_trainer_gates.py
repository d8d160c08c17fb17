"""Row B2, attention gates: what each variant may see, in sequences and in images."""

from __future__ import annotations

import pytest
import torch

from cra_trainer.allocation.gates import KINDS, AttentionGate, Kind


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(3, 5, 8), (3, 8, 5, 4)])
def test_a_gate_weighs_what_passes_by_numbers_between_0_and_1(kind: Kind, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    gate, x = AttentionGate(8, kind), torch.randn(shape)
    weights = gate.weights(x)
    assert gate(x).shape == shape
    assert torch.equal(gate(x), x * weights)
    assert ((weights > 0) & (weights < 1)).all()
    gate(x).sum().backward()
    assert all(parameter.grad is not None for parameter in gate.parameters())


def changes(kind: Kind) -> set[int]:
    """Positions of a sequence of 6 whose gates change with the input at position 3."""
    torch.manual_seed(0)
    gate, x = AttentionGate(8, kind), torch.randn(1, 6, 8)
    other = x.clone()
    other[0, 3] += 1
    one, two = (gate.weights(y).expand(1, 6, 8)[0] for y in (x, other))
    return {i for i in range(6) if not torch.allclose(one[i], two[i], atol=1e-6)}


def test_each_variant_sees_what_it_is_named_for() -> None:
    everywhere = set(range(6))
    assert changes("global") == everywhere
    assert changes("local") == {3}
    assert changes("multi-head") == {3}
    assert changes("adaptive") == everywhere
    assert changes("autoregressive") == {3, 4, 5}


def test_images_are_gated_as_sequences_of_their_pixels() -> None:
    torch.manual_seed(0)
    for kind in KINDS:
        gate, images = AttentionGate(8, kind), torch.randn(2, 8, 3, 4)
        as_sequence = gate(images.flatten(2).transpose(1, 2)).transpose(1, 2).unflatten(2, (3, 4))
        assert torch.allclose(gate(images), as_sequence, atol=1e-6)


def test_a_head_gates_all_its_features_alike() -> None:
    weights = AttentionGate(8, "multi-head", heads=2).weights(torch.randn(1, 3, 8))
    assert torch.equal(weights[..., :4], weights[..., :1].expand(1, 3, 4))
    assert not torch.equal(weights[..., 3], weights[..., 4])


def test_a_gate_that_cannot_be_is_refused_with_what_could() -> None:
    with pytest.raises(ValueError, match="kind: expected one of global, local"):
        AttentionGate(8, "cross")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="heads: expected a divisor of 8 features, got 3"):
        AttentionGate(8, "multi-head", heads=3)
