"""Attention scores of nodes, as a small torch module.

The nodes first look at each other (self-attention, so that a score may depend on who else is there), then the
job's demand looks at the nodes (cross-attention): the logit of the demand towards node i, averaged over the
heads with learned gains, is the score a_i, and softmax(a) are the weights w. The gains start at zero, so a =
0: an untrained module changes nothing and every deviation from the capability-proportional split has been
learned. A score is bounded (tanh), so that no amount of bad data moves a node by more than a fixed factor.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

Similarity = Literal["dot", "cosine"]


def similarities(query: Tensor, key: Tensor, similarity: Similarity = "dot") -> Tensor:
    """Scores of queries [..., n, d] against keys [..., m, d] → [..., n, m].

    ``dot`` is Q Kᵀ / √d; ``cosine`` compares directions only, with the factor √d that lets it reach the same
    range.
    """
    width = query.shape[-1]
    if similarity == "cosine":
        query, key = functional.normalize(query, dim=-1), functional.normalize(key, dim=-1)
        return query @ key.transpose(-2, -1) * math.sqrt(width)
    return query @ key.transpose(-2, -1) / math.sqrt(width)


def attend(
    query: Tensor, key: Tensor, value: Tensor, similarity: Similarity = "dot"
) -> tuple[Tensor, Tensor]:
    """softmax(Q Kᵀ / √d_k) V and the attention matrix: ([..., n, d_v], [..., n, m])."""
    weights = similarities(query, key, similarity).softmax(dim=-1)
    return weights @ value, weights


class MultiHeadAttention(nn.Module):
    """Multi-head scaled dot-product attention; self-attention when given one set, cross-attention when given
    two.

    Args:
        query_width: Features of a query.
        key_width: Features of a node that is looked at.
        heads: Number of heads.
        head_width: Width of each head.
        similarity: How a query is compared with a key.
    """

    def __init__(
        self,
        query_width: int,
        key_width: int,
        *,
        heads: int,
        head_width: int = 8,
        similarity: Similarity = "dot",
    ) -> None:
        super().__init__()
        self.heads, self.similarity = heads, similarity
        self.query = nn.Linear(query_width, heads * head_width, bias=False)
        self.key = nn.Linear(key_width, heads * head_width, bias=False)
        self.value = nn.Linear(key_width, heads * head_width, bias=False)
        self.out = nn.Linear(heads * head_width, query_width, bias=False)

    def split(self, x: Tensor) -> Tensor:
        """[n, heads·d] → [heads, n, d]."""
        return x.view(x.shape[0], self.heads, -1).transpose(0, 1)

    def forward(self, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        """Queries [n, query_width] over nodes [m, key_width] → (output [n, query_width], matrix [heads, n,
        m]).
        """
        mixed, weights = attend(
            self.split(self.query(query)),
            self.split(self.key(key)),
            self.split(self.value(key)),
            self.similarity,
        )
        return self.out(mixed.transpose(0, 1).flatten(1)), weights


class NodeScorer(nn.Module):
    """Scores a_i of nodes for a demand, zero until learned and never beyond ±`bound`.

    Args:
        features: Features per node.
        demand: Features of the job's demand.
        heads: Heads of both attentions.
        similarity: How the demand is compared with the nodes.
        bound: Largest |a_i|: by default attention lets a node take a quarter longer than the split by speed
            does, or a fifth shorter.
        seed: Of the initial projections, so that all ranks start from the same module.
    """

    def __init__(
        self,
        features: int,
        demand: int,
        *,
        heads: int = 4,
        head_width: int = 8,
        similarity: Similarity = "dot",
        bound: float = math.log(1.25),
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.heads, self.similarity, self.bound = heads, similarity, bound
        self.among = MultiHeadAttention(
            features, features, heads=heads, head_width=head_width, similarity=similarity
        )
        self.query = nn.Linear(demand, heads * head_width, bias=False)
        self.key = nn.Linear(features, heads * head_width, bias=False)
        self.gain = nn.Parameter(torch.zeros(heads))
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for layer in (self.among.query, self.among.key, self.among.value, self.query, self.key):
                layer.weight.normal_(std=1 / math.sqrt(layer.in_features), generator=generator)
            self.among.out.weight.zero_()

    def forward(self, nodes: Tensor, demand: Tensor) -> Tensor:
        """Scores [n] of nodes [n, features] for a demand [demand]; their mean is 0 before the bound."""
        scores = (self.gain[:, None] * self._logits(nodes, demand)[0]).mean(dim=0)
        return self.bound * torch.tanh((scores - scores.mean()) / self.bound)

    def matrices(self, nodes: Tensor, demand: Tensor) -> tuple[Tensor, Tensor]:
        """How much each node looks at each [heads, n, n], and the demand at each node [heads, n]."""
        logits, among = self._logits(nodes, demand)
        return among, logits.softmax(dim=-1)

    def _logits(self, nodes: Tensor, demand: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of the demand towards the nodes [heads, n], and the matrix of the nodes [heads, n, n]."""
        mixed, among = self.among(nodes, nodes)
        split = self.among.split
        keys = split(self.key(nodes + mixed))
        return similarities(split(self.query(demand[None])), keys, self.similarity)[:, 0], among
