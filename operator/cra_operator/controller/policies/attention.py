"""The attention policy: who gets how much attention is learned, who gets how many GPUs is solved.

Each job is a token (`tokens`); a small attention network (`network`) lets jobs look at each other and at the
load of the cluster and gives every job a change of its four numbers in the rule of `goodput`: the
logarithm of its weight, the concavity of its utility, the damping of its restarts, and its thrift. The
softmax of the log-weights is the attention that the job gets. The exact solver makes whole GPUs of it. A
network of zeros is the rule itself, so whatever learning adds, it starts from there.

Where the cluster is busier or idler than any of training, the network is not asked: its part fades out, and
the rule's preset is left.
"""

from __future__ import annotations

import numpy as np

from cra_operator.controller.policies import goodput, tokens
from cra_operator.controller.policies.goodput import Waiting, log_weights, softmax
from cra_operator.controller.policies.network import attend
from cra_operator.controller.policies.store import Learned, load_network
from cra_operator.controller.policy import ClusterObservation, Decision, Floats

_FADE = 0.5
_MOST_WEIGHT = 4.0


class Attention:
    """The network and the solver.

    Args:
        learned: The weights and what they were trained for; None takes those that are shipped.
    """

    def __init__(self, learned: Learned | None = None) -> None:
        self._learned = learned or load_network("attention")
        self._waiting = Waiting()

    def decide(self, seen: ClusterObservation) -> Decision:
        """See `Policy.decide`."""
        if not len(seen):
            return Decision(choice=np.empty(0, dtype=np.int64), weight=np.empty(0))
        learned, gpus = self._learned, seen.sizes.gpus
        capacity = float(seen.capacity.sum())
        alone, base = goodput.single_gpu_seconds(seen.rate, gpus, seen.remaining, seen.attained)
        profile = tokens.speed_profile(seen.rate, gpus)
        held = gpus[seen.current].astype(float)
        limit = seen.limit.astype(float)
        x = tokens.job_tokens(
            alone, profile, seen.age, seen.attained, held, limit, seen.restart_seconds, capacity
        )
        y = tokens.cluster_tokens(alone, profile, held, limit, capacity)
        out = attend(x, y, learned.weights)
        out *= trust(tokens.load_of(len(seen), capacity), learned.least_load, learned.most_load)
        waited, preset = self._waiting.update(seen), learned.preset
        changed = numbers(out, alone, waited, preset.favour, preset.concavity, preset.damping)
        return goodput.choose(seen, alone, base, *changed, preset.lost)


def numbers(
    out: Floats, alone: Floats, waited: Floats, favour: float, concavity: float, damping: float
) -> tuple[Floats, Floats, Floats, Floats]:
    """The rule's numbers for each job, the network's changes put on the preset.

    Returns:
        Weights that sum to one, concavities, dampings and thrifts, each [J].
    """
    more = np.minimum(np.maximum(out[:, 0], -_MOST_WEIGHT), _MOST_WEIGHT)
    weight = softmax(log_weights(alone, waited, favour) + more)
    power = np.minimum(np.maximum(concavity + out[:, 1], 0.1), 2.5)
    # A restart never counts for less than it takes, or GPUs go to and fro.
    damp = np.minimum(np.maximum(damping + out[:, 2], 0.0), 4.0)
    thrift = np.minimum(np.maximum(out[:, 3], -1.0), 2.0)
    return weight, power, damp, thrift


def trust(load: float, least: float, most: float) -> float:
    """1 where the load was trained for, falling to 0 within `_FADE` outside."""
    outside = max(least - load, load - most, 0.0)
    return max(1.0 - outside / _FADE, 0.0)
