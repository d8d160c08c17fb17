"""The attention network of `cra_operator.controller.policies.network` in torch, to be trained by gradients.

The same parameters by the same names and the same numbers within 1e-5, for batches of cluster states with
different numbers of jobs. Beside it the critic, which only training needs.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cra_operator.controller.policies.network import HEADS, SHAPES, WIDTH, Weights
from cra_operator.controller.policies.tokens import CLUSTER, JOBS


class AttentionNetwork(nn.Module):
    """Jobs attend to learned summaries of all jobs and to the load.

    Args:
        weights: Where to begin.
    """

    def __init__(self, weights: Weights) -> None:
        super().__init__()
        for name in SHAPES:
            start = torch.tensor(getattr(weights, name), dtype=torch.float32)
            self.register_parameter(name, nn.Parameter(start))

    def forward(self, x: Tensor, y: Tensor, mask: Tensor) -> Tensor:
        """What is added to (log w, q, h, e).

        Args:
            x: Tokens of the jobs, [B, J, F].
            y: States of the cluster, [B, C].
            mask: Which tokens are jobs and not padding, [B, J].

        Returns:
            [B, J, 4]; whatever at padding.
        """
        p = dict(self.named_parameters())
        jobs = nn.functional.softsign(x @ p["embed"])
        score = p["queries"] @ (jobs @ p["summary_key"]).transpose(1, 2) / WIDTH**0.5
        score = score.clamp(-30, 30).masked_fill(~mask[:, None], -torch.inf)
        summary = torch.softmax(score, dim=-1) @ (jobs @ p["summary_value"])
        load = nn.functional.softsign(y[:, :, None] * p["load_gain"] + p["load_bias"])
        memory = torch.cat([summary, load], dim=1)
        query, key, value = (
            _split(tensor)
            for tensor in (jobs @ p["job_query"], memory @ p["memory_key"], memory @ p["memory_value"])
        )
        score = (query @ key.transpose(2, 3) / (WIDTH // HEADS) ** 0.5).clamp(-30, 30)
        looked = (torch.softmax(score, dim=-1) @ value).transpose(1, 2).flatten(2)
        out: Tensor = x @ p["out_token"] + jobs @ p["out_job"] + looked @ p["out_attention"]
        return out

    def weights(self) -> Weights:
        """The parameters for numpy."""
        found = {name: value.detach().double().numpy().copy() for name, value in self.named_parameters()}
        return Weights(**found)


class Critic(nn.Module):
    """What is still to come: the value of a state, from the mean over its jobs (Deep Sets; Zaheer et al.,
    NeurIPS 2017) and the cluster."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.each = nn.Sequential(nn.Linear(JOBS, width), nn.Tanh())
        self.whole = nn.Sequential(nn.Linear(width + CLUSTER + 1, width), nn.Tanh(), nn.Linear(width, 1))

    def forward(self, x: Tensor, y: Tensor, mask: Tensor, left: Tensor) -> Tensor:
        """Values of states, [B].

        Args:
            x: Tokens of the jobs, [B, J, F].
            y: States of the cluster, [B, C].
            mask: Which tokens are jobs, [B, J].
            left: Part of the workload's jobs that are still to be submitted, [B].
        """
        real = mask[:, :, None].float()
        mean = (self.each(x) * real).sum(1) / real.sum(1).clamp(min=1)
        found: Tensor = self.whole(torch.cat([mean, y, left[:, None]], dim=1))
        return found[:, 0]


def _split(x: Tensor) -> Tensor:
    """[B, N, D] to [B, H, N, D / H]."""
    return x.reshape(*x.shape[:2], HEADS, WIDTH // HEADS).transpose(1, 2)
