"""The attention network over jobs, in numpy: a few matrix products, microseconds for tens of jobs.

Jobs are a set, so there is no position and no order (Set Transformer; Lee et al., ICML 2019). Let X be the
tokens, [J, F], and y the state of the cluster, [C] (`tokens`).

    E = f(X W_e)                                              jobs, [J, D]
    S = softmax(I (E W_k)' / sqrt(D)) (E W_v)                 what is typical, by M learned queries
    L_c = f(y_c g_c + b_c)                                    a token for each number of y, [C, D]
    A = heads(softmax(E W_q (Z U_k)' / sqrt(D/H)) (Z U_v))    each job looks at Z = [S; L]
    (d log w, d q, d h, e) = X W_x + E W_d + A W_a            for each job, [J, 4]

f(z) = z / (1 + |z|). That is self-attention over jobs and cross-attention to the load in one.

Jobs look at each other through the M summaries, the set transformer's induced attention: its cost grows with
J, not with J squared. With W_x, W_d and W_a zero the network adds nothing.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from cra_operator.controller.policies.tokens import CLUSTER, JOBS
from cra_operator.controller.policy import Floats

WIDTH = 8
HEADS = 2
SUMMARIES = 4
OUTPUTS = 4
_BOUND = 30.0


class Weights(NamedTuple):
    """All parameters; what they are is said above."""

    embed: Floats
    queries: Floats
    summary_key: Floats
    summary_value: Floats
    load_gain: Floats
    load_bias: Floats
    job_query: Floats
    memory_key: Floats
    memory_value: Floats
    out_token: Floats
    out_job: Floats
    out_attention: Floats


SHAPES: dict[str, tuple[int, int]] = {
    "embed": (JOBS, WIDTH),
    "queries": (SUMMARIES, WIDTH),
    "summary_key": (WIDTH, WIDTH),
    "summary_value": (WIDTH, WIDTH),
    "load_gain": (CLUSTER, WIDTH),
    "load_bias": (CLUSTER, WIDTH),
    "job_query": (WIDTH, WIDTH),
    "memory_key": (WIDTH, WIDTH),
    "memory_value": (WIDTH, WIDTH),
    "out_token": (JOBS, OUTPUTS),
    "out_job": (WIDTH, OUTPUTS),
    "out_attention": (WIDTH, OUTPUTS),
}
"""By the names in `Weights`."""
OUT = ("out_token", "out_job", "out_attention")
"""The last layer: zero, and the network adds nothing."""


def attend(x: Floats, y: Floats, weights: Weights) -> Floats:
    """What the network adds to (log w, q, h, e) of each job, [J, 4].

    Args:
        x: Tokens of the jobs, [J, F].
        y: State of the cluster, [C].
        weights: The parameters.
    """
    jobs = x @ weights.embed
    jobs = jobs / (1.0 + np.abs(jobs))
    # Scores are bounded, so no maximum has to be taken off before the exponential.
    score = weights.queries @ (jobs @ weights.summary_key).T / np.sqrt(WIDTH)
    grown = np.exp(np.minimum(np.maximum(score, -_BOUND), _BOUND))
    summary = (grown / np.sum(grown, axis=1).reshape(-1, 1)) @ (jobs @ weights.summary_value)
    load = y.reshape(-1, 1) * weights.load_gain + weights.load_bias
    load = load / (1.0 + np.abs(load))
    memory = np.concatenate((summary, load))
    query, key, value = jobs @ weights.job_query, memory @ weights.memory_key, memory @ weights.memory_value
    out = x @ weights.out_token + jobs @ weights.out_job
    part = WIDTH // HEADS
    for head in range(HEADS):
        own = slice(head * part, (head + 1) * part)
        score = np.ascontiguousarray(query[:, own]) @ np.ascontiguousarray(key[:, own]).T / np.sqrt(part)
        grown = np.exp(np.minimum(np.maximum(score, -_BOUND), _BOUND))
        looked = (grown / np.sum(grown, axis=1).reshape(-1, 1)) @ np.ascontiguousarray(value[:, own])
        out += looked @ np.ascontiguousarray(weights.out_attention[own])
    return out
