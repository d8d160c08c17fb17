"""Goodput by remaining work: what a GPU is worth to a job depends on how long the job still has to run.

Each job i has a utility at each size k,

    U_i(k) = w_i * (T1_i / (T_i(k) + c_i(k)))^q_i * (speed-up at k / k)^e_i

and the exact solver finds the sizes with the largest sum. T_i(k) is the remaining work over the goodput at k;
c_i(k) is what is left of the pause if the job stays as it is, otherwise R_i * e^h_i, the restart, dearer than
it is by e^h because a move is seldom the last. T1_i is the time that a single GPU would take. The weights are
w_i = softmax(-a * log T1_i): for a > 0 the shorter job goes first, which is the shortest remaining processing
time made soft (Schrage, Operations Research 1968), as a cluster that shares must have it: never all to the
shortest (heSRPT; Berg et al., SIGMETRICS 2020). q < 1 spreads GPUs, q = 1 adds up weighted speed-ups. With
a = q the sum is that of T^-a. e > 0 is thrift: sizes count for less at which a GPU brings less than a single
one would. Where a job is moved, U_i(k) is multiplied by l_i^f, l_i the part of its life that it would have
been training (f of Sia, SOSP'23).

So a policy is four numbers for each job, (log w, q, h, e), and f for all. A *preset* has the same for all
jobs, with e = 0; the learned policies choose them by job or by the state of the cluster.

Jobs that declare no end count as if as much were left as they had so far, which is what one expects of
heavy-tailed sizes, and what serves them in the order of attained service (Tiresias, NSDI'19).

Nobody goes to and fro for ever: where a job was training for less than `_ENOUGH` of its life, moving it
counts for less in proportion, until it stays.

Nobody starves: a job that has waited longer than it ran gains weight with every second, by a factor of e in
`_PATIENCE`, until it is served.

Functions of arrays here keep to what Numba knows too, because the simulator compiles them for training.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cra_operator.controller.policy import ClusterObservation, Decision, Floats, Ints
from cra_operator.controller.solver import solve

_PATIENCE = 8 * 3600.0
_FIRST_WORK = 3600.0
_ENOUGH = 0.7


@dataclass(frozen=True, kw_only=True, slots=True)
class Preset:
    """The same numbers for every job.

    Attributes:
        favour: a, how much shorter jobs are favoured.
        concavity: q, the power of the speed-up.
        damping: h, the logarithm of the factor by which restarts are dearer than they are.
        lost: f, the power of what moves lose; 0 leaves that out.
    """

    favour: float
    concavity: float
    damping: float
    lost: float = 0.0


UNTUNED = Preset(favour=0.5, concavity=0.5, damping=0.0)
"""Maximises the sum of 1/sqrt(T)."""
TUNED = Preset(favour=0.4, concavity=1.0, damping=1.2, lost=0.3)
"""The best of a grid on the training workloads."""
MIXED = Preset(favour=0.4, concavity=1.0, damping=0.5, lost=1.0)
"""The same for clusters of several types of GPU."""


class Goodput:
    """The rule with one preset.

    Args:
        preset: The numbers; None takes `TUNED` or, on several types of GPU, `MIXED`.
    """

    def __init__(self, preset: Preset | None = None) -> None:
        self.preset = preset
        self._waiting = Waiting()

    def decide(self, seen: ClusterObservation) -> Decision:
        """See `Policy.decide`."""
        preset = self.preset or (TUNED if len(seen.capacity) == 1 else MIXED)
        if not len(seen):
            return Decision(choice=np.empty(0, dtype=np.int64), weight=np.empty(0))
        alone, base = single_gpu_seconds(seen.rate, seen.sizes.gpus, seen.remaining, seen.attained)
        weight = softmax(log_weights(alone, self._waiting.update(seen), preset.favour))
        concavity = np.full(len(seen), preset.concavity)
        damping, thrift = np.full(len(seen), preset.damping), np.zeros(len(seen))
        return choose(seen, alone, base, weight, concavity, damping, thrift, preset.lost)


class Waiting:
    """How much longer than it ran has each job waited? A leaking bucket for each, never below zero."""

    def __init__(self) -> None:
        self._time = 0.0
        self._ids = np.empty(0, dtype=np.int64)
        self._seconds = np.empty(0)

    def update(self, seen: ClusterObservation) -> Floats:
        """Seconds for each job, [J]: they grow while it has no GPUs and shrink while it has some."""
        past = seen.time - self._time
        # A job that was not seen before, as after a restart of the operator, has waited since its submission.
        seconds = np.where(seen.current > 0, 0.0, seen.age)
        at = np.searchsorted(self._ids, seen.ids)
        if len(self._ids):
            at = np.minimum(at, len(self._ids) - 1)
            known = self._ids[at] == seen.ids
            then = self._seconds[at]
            now = np.where(seen.current > 0, np.maximum(then - past, 0.0), then + past)
            seconds = np.where(known, now, seconds)
        self._time, self._ids, self._seconds = seen.time, seen.ids.copy(), seconds
        return seconds


def choose(
    seen: ClusterObservation,
    alone: Floats,
    base: Floats,
    weight: Floats,
    concavity: Floats,
    damping: Floats,
    thrift: Floats,
    lost: float,
) -> Decision:
    """Solve for the best sizes.

    Args:
        seen: The cluster.
        alone: Seconds on a single GPU, [J].
        base: Progress/s of that GPU, [J].
        weight: w, [J].
        concavity: q, [J].
        damping: h, [J].
        thrift: e, [J].
        lost: See `Preset`.
    """
    value = worth(
        seen.rate, seen.sizes.gpus, seen.limit, seen.current, seen.age, seen.restarts, seen.pause_left,
        seen.restart_seconds, alone, base, weight, concavity, damping, thrift, lost,
    )  # fmt: skip
    return Decision(choice=solve(value, seen.sizes, seen.capacity), weight=weight)


def single_gpu_seconds(
    rate: Floats, gpus: Ints, remaining: Floats, attained: Floats
) -> tuple[Floats, Floats]:
    """How long would one GPU take?

    Where a job does not run on one, that is its smallest size with its time stretched; of several types, the
    fastest.

    Args:
        rate: Progress/s, [J, K].
        gpus: GPUs of each size, [K].
        remaining: Progress until the end, [J]; NaN for none declared.
        attained: GPU-seconds so far, [J].

    Returns:
        Seconds, [J], and progress/s of that GPU, [J].
    """
    base, _ = base_rate(rate, gpus)
    return alone_seconds(base, remaining, attained), base


def base_rate(rate: Floats, gpus: Ints) -> tuple[Floats, Floats]:
    """Progress/s of one GPU, [J], and the smallest number of GPUs that a job runs on, [J]; see above."""
    base = np.full(len(rate), 1e-9)
    size = np.full(len(rate), 1e9)
    for k in range(1, len(gpus)):
        each = rate[:, k] / gpus[k]
        better = (each > 0) & ((gpus[k] < size) | ((gpus[k] == size) & (each > base)))
        base = np.where(better, each, base)
        size = np.where(better, gpus[k] * 1.0, size)
    return base, size


def alone_seconds(base: Floats, remaining: Floats, attained: Floats) -> Floats:
    """Seconds on a single GPU, [J]."""
    unknown = attained + _FIRST_WORK
    return np.maximum(np.where(np.isnan(remaining), unknown, remaining / base), 1.0)


def log_weights(alone: Floats, waited: Floats, favour: float) -> Floats:
    """log w before it is normalised, [J]."""
    return -favour * np.log(alone) + waited / _PATIENCE


def softmax(logits: Floats) -> Floats:
    """Weights that sum to one, [J]."""
    grown: Floats = np.exp(logits - np.max(logits))
    return grown / np.sum(grown)


def worth(
    rate: Floats,
    gpus: Ints,
    limit: Ints,
    current: Ints,
    age: Floats,
    restarts: Ints,
    pause_left: Floats,
    restart_seconds: Floats,
    alone: Floats,
    base: Floats,
    weight: Floats,
    concavity: Floats,
    damping: Floats,
    thrift: Floats,
    lost: float,
) -> Floats:
    """The utility of each size for each job, [J, K]; -inf where it must not be, 0 for no GPUs.

    Arguments are as in `ClusterObservation` and `choose`.
    """
    jobs, sizes = rate.shape
    allowed = (rate > 0) & (gpus.reshape(1, sizes) <= limit.reshape(jobs, 1))
    # Most jobs of a busy cluster may have few sizes, so only those cells are worked out.
    cells = np.flatnonzero(allowed)
    job = cells // sizes
    stays = cells - job * sizes == current[job]
    pause = np.where(stays, pause_left[job], (restart_seconds * np.exp(damping))[job])
    faster = np.log(rate.ravel()[cells] / base[job])
    seconds = alone[job] * np.exp(-faster) + pause + 1e-3
    utility = weight[job] * np.exp(
        concavity[job] * (np.log(alone)[job] - np.log(seconds))
        + thrift[job] * (faster - np.log(np.maximum(gpus[cells - job * sizes], 1)))
    )
    trained = np.maximum(age - restarts * restart_seconds, 0.0) / (age + restart_seconds)
    worthwhile = trained**lost * np.minimum(trained / _ENOUGH, 1.0)
    utility = np.where(stays, utility, utility * np.where(age < restart_seconds, 1.0, worthwhile)[job])
    flat = np.full(jobs * sizes, -np.inf)
    flat[cells] = utility
    value = flat.reshape(jobs, sizes)
    value[:, 0] = 0.0
    return value
