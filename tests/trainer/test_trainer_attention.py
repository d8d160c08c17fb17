"""Row A1: attention scores with both similarities, of nodes among themselves and of a demand."""

from __future__ import annotations

import math

import pytest
import torch

from cra_trainer.allocation.attention import MultiHeadAttention, NodeScorer, attend, similarities


def test_attention_is_softmax_of_scaled_products_times_values() -> None:
    q, k, v = torch.randn(3, 4), torch.randn(5, 4), torch.randn(5, 2)
    out, matrix = attend(q, k, v)
    rows = [[float(q[i] @ k[j]) / math.sqrt(4) for j in range(5)] for i in range(3)]
    for i, row in enumerate(rows):
        powers = [math.exp(x) for x in row]
        expected = torch.stack([p / sum(powers) * v[j] for j, p in enumerate(powers)]).sum(dim=0)
        assert torch.allclose(out[i], expected, atol=1e-6)
    assert torch.allclose(matrix.sum(dim=1), torch.ones(3))


def test_attention_agrees_with_torch() -> None:
    q, k, v = torch.randn(4, 3, 8), torch.randn(4, 5, 8), torch.randn(4, 5, 8)
    expected = torch.nn.functional.scaled_dot_product_attention(q, k, v)
    assert torch.allclose(attend(q, k, v)[0], expected, atol=1e-6)


def test_cosine_similarity_sees_directions_only() -> None:
    q, k = torch.randn(3, 4), torch.randn(5, 4)
    scores = similarities(q, k, "cosine")
    assert torch.allclose(scores, similarities(3 * q, 0.1 * k, "cosine"), atol=1e-6)
    assert torch.allclose(similarities(q, q, "cosine").diagonal(), torch.full((3,), 2.0))
    assert not torch.allclose(similarities(q, k), similarities(3 * q, k))


def test_multi_head_attention_has_one_matrix_per_head() -> None:
    among = MultiHeadAttention(3, 3, heads=4)
    out, matrix = among(torch.randn(6, 3), torch.randn(6, 3))
    assert out.shape == (6, 3)
    assert matrix.shape == (4, 6, 6)
    out, matrix = MultiHeadAttention(2, 3, heads=2)(torch.randn(1, 2), torch.randn(6, 3))
    assert out.shape == (1, 2)
    assert matrix.shape == (2, 1, 6)


@pytest.mark.parametrize("similarity", ["dot", "cosine"])
def test_untrained_scores_are_zero(similarity: str) -> None:
    scorer = NodeScorer(3, 2, similarity=similarity)  # type: ignore[arg-type]
    assert torch.equal(scorer(torch.randn(7, 3), torch.randn(2)), torch.zeros(7))


def test_scorers_with_one_seed_are_the_same_module() -> None:
    one, two, other = NodeScorer(3, 2, seed=1), NodeScorer(3, 2, seed=1), NodeScorer(3, 2, seed=2)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert not torch.equal(one.query.weight, other.query.weight)


def test_scores_follow_nodes_and_stay_bounded() -> None:
    scorer = NodeScorer(3, 2, bound=0.5)
    torch.nn.init.normal_(scorer.gain, std=100)
    torch.nn.init.normal_(scorer.among.out.weight)
    nodes, demand = torch.randn(6, 3), torch.randn(2)
    scores, order = scorer(nodes, demand), torch.randperm(6)
    assert torch.allclose(scorer(nodes[order], demand), scores[order], atol=1e-5)
    assert scores.abs().max() <= 0.5
    assert scores.std() > 0
