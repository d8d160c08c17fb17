"""From a few measured step times of one job to its speed at every size on offer.

The model is Pollux's (OSDI'21, section 3.2). With a global batch of M samples on K GPUs of N nodes, each GPU
computes m = M / K samples a step, and

    T_grad = a_c + b_c * m                                     gradients of m samples
    T_sync = 0                        if K = 1                 their reduction
             a_r + b_r * max(K - 2, 0)    if K > 1 and N = 1
             a_n + b_n * max(K - 2, 0)    if N > 1
    T_step = (T_grad^g + T_sync^g)^(1/g),   1 <= g <= 10       g = 1: one after the other; large: overlapped

It is fitted to the logarithms of what was measured, with Levenberg's and Marquardt's method and a gradient
written by hand, for many jobs in one go. Weak priors stand in for what has not been measured yet. They are
*optimistic*, as Pollux's are: synchronisation costs next to nothing, a step is mostly work that more GPUs
share. So a size that nobody tried looks good, is tried, and corrects the model. Where Pollux takes half of a
step of a single local batch size for fixed cost, a fifth is taken here: there the batch grows with the job,
here it may stay, and scaling that looks bad would never be explored. The priors' numbers predict the
applications of Pollux's evaluation best and still err on the hopeful side (benchmarks/speed_prediction.py).

Types of GPU are fitted one by one. A type that was measured at one size only takes the shape of the type that
is known best, scaled to run through its own point, and a type never seen takes it as it is: the bootstrapping
of Sia (SOSP'23). What was measured is always predicted as measured; the model fills the gaps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cra_operator.controller.policy import Floats, Ints, Sizes

_A_C, _B_C, _A_R, _B_R, _A_N, _B_N, _G = range(7)
_FIXED_PART = 0.2
"""Part of a step that more GPUs do not shorten, until several local batch sizes were measured."""
_NEGLIGIBLE = 1e-3
"""Cost of synchronisation that was never seen, in parts of a step."""
_PRIOR = 3e-3
"""Weight of the priors' residuals; the residuals of the points have weight 1 altogether."""
_PRIOR_GROWTH = 1e-2
"""The same for b_r and b_n: one costly size tells what a reduction costs, not that larger ones cost more."""
_WORSE_ACROSS_NODES = 2.0
"""Synchronisation across nodes costs at least so many times that within one, until it was measured."""
_MAX_G = 10.0
_PULL = np.array([_PRIOR, 0.0, _PRIOR, _PRIOR_GROWTH, _PRIOR, _PRIOR_GROWTH, _PRIOR])
_ITERATIONS = 30
_STRIDE = 2.0
"""The most that the logarithm of a parameter changes in one iteration."""
_CONVERGED = 1e-4
"""Part of the cost below which an iteration's gain is the last."""
_HOPELESS = 1e3
"""Damping at which no step is expected to help any more."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SpeedPoint:
    """A measured speed.

    Attributes:
        gpus: GPUs of the job.
        nodes: Nodes over which they were spread.
        kind: Index of their type.
        batch: Samples of the global batch.
        step_seconds: Duration of an optimizer step.
        compute_seconds: Part of it until the gradients were there, if known; it tells how far steps can
            shrink from points of a single size.
    """

    gpus: int
    nodes: int
    kind: int
    batch: int
    step_seconds: float
    compute_seconds: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SpeedModel:
    """Predicts step times.

    Attributes:
        parameters: (a_c, b_c, a_r, b_r, a_n, b_n, g) of each row, [R, 7]; seconds but for the last.
        rows: Row of each type of GPU that was measured; row 0 serves all others.
        points: What it was fitted to.
        surplus: log(measured / modelled) step time of each point, [P].
    """

    parameters: Floats
    rows: Mapping[int, int]
    points: tuple[SpeedPoint, ...]
    surplus: Floats

    def step_seconds(self, sizes: Sizes, batch: float | Floats) -> Floats:
        """Duration of an optimizer step at each size.

        Args:
            sizes: The columns.
            batch: Samples of the global batch; a number, [K] or [..., K].

        Returns:
            Seconds, [K] or [..., K]; infinite at size 0.
        """
        row = np.zeros(len(sizes), dtype=np.int64)
        for kind, its_row in self.rows.items():
            row[sizes.kind == kind] = its_row
        gpus = np.maximum(sizes.gpus, 1)
        samples = np.broadcast_to(np.asarray(batch, dtype=np.float64), np.shape(batch + 0.0 * gpus))
        seconds = np.exp(_log_step(np.moveaxis(self.parameters[row], 1, 0), gpus, sizes.nodes, samples)[0])
        seconds = seconds * np.exp(self._surplus_at(sizes, samples))
        return np.where(sizes.gpus > 0, seconds, np.inf)

    def throughput(self, sizes: Sizes, batch: float | Floats) -> Floats:
        """Optimizer steps per second at each size; shapes as of `step_seconds`; 0 at size 0."""
        return 1.0 / self.step_seconds(sizes, batch)

    def _surplus_at(self, sizes: Sizes, batch: Floats) -> Floats:
        """What measurements add at the sizes where there are some: that of the nearest batch, [..., K]."""
        best = np.zeros(batch.shape)
        nearest = np.full(batch.shape, np.inf)
        for point, surplus in zip(self.points, self.surplus, strict=True):
            same = (sizes.gpus == point.gpus) & (sizes.nodes == point.nodes) & (sizes.kind == point.kind)
            if same.any():
                far = np.abs(np.log(batch / point.batch))
                closer = same & (far < nearest)
                best[closer], nearest[closer] = surplus, far[closer]
        return best


def fit(points: Sequence[SpeedPoint]) -> SpeedModel:
    """The model of one job; see `fit_all`.

    Raises:
        ValueError: There are no points, or one of them is not positive.
    """
    return fit_all([points])[0]


def fit_all(jobs: Sequence[Sequence[SpeedPoint]]) -> list[SpeedModel]:
    """The models of many jobs, fitted together: a thousand take less than a second.

    Args:
        jobs: The points of each job; several of one size and batch count as their geometric mean.

    Raises:
        ValueError: A job has no points, or one of them is not positive.
    """
    groups: list[list[list[SpeedPoint]]] = []
    for points in jobs:
        if not points:
            raise ValueError("no speed was measured: at least one point is needed")
        if any(min(p.gpus, p.nodes, p.batch) < 1 or not 0 < p.step_seconds < np.inf for p in points):
            raise ValueError("gpus, nodes, batch and step_seconds of every point must be positive")
        by_kind: dict[int, list[SpeedPoint]] = {}
        for point in points:
            by_kind.setdefault(point.kind, []).append(point)
        # The type that is known best comes first: the others may learn from it.
        groups.append(sorted(by_kind.values(), key=lambda group: (-len(_gpu_counts(group)), -len(group))))
    parameters = _fit([group for kinds in groups for group in kinds])
    models, start = [], 0
    for kinds in groups:
        models.append(_model(kinds, parameters[start : start + len(kinds)]))
        start += len(kinds)
    return models


def efficiency(batch: float | Floats, base_batch: float, noise_scale: float) -> float | Floats:
    """Progress of a sample in a batch of this size, relative to one in the job's own batch.

    (phi + M0) / (phi + M) with the noise scale phi in samples (Pollux, section 3.1).
    """
    return (noise_scale + base_batch) / (noise_scale + batch)


def goodput(
    throughput: float | Floats, batch: float | Floats, base_batch: float, noise_scale: float
) -> float | Floats:
    """Progress per second, in optimizer steps of the job's own batch.

    Args:
        throughput: Optimizer steps per second.
        batch: Samples of each step.
        base_batch: Samples of the job's own batch, M0.
        noise_scale: Gradient noise scale in samples; 0 says that larger batches help nothing.
    """
    return throughput * (batch / base_batch) * efficiency(batch, base_batch, noise_scale)


def _gpu_counts(points: Sequence[SpeedPoint]) -> set[int]:
    return {point.gpus for point in points}


def _model(kinds: Sequence[Sequence[SpeedPoint]], parameters: Floats) -> SpeedModel:
    """The model of one job from the fits of its types, the best known first."""
    parameters = parameters.copy()
    for row, points in enumerate(kinds):
        if row > 0 and len(_gpu_counts(points)) == 1 < len(_gpu_counts(kinds[0])):
            # Times of any row scale with its parameters in seconds, all but g.
            parameters[row] = parameters[0]
            parameters[row, :_G] *= np.exp(np.mean(_surplus(points, parameters[0])))
    return SpeedModel(
        parameters=parameters,
        rows={points[0].kind: row for row, points in enumerate(kinds)},
        points=tuple(point for points in kinds for point in points),
        surplus=np.concatenate([_surplus(points, parameters[row]) for row, points in enumerate(kinds)]),
    )


def _surplus(points: Sequence[SpeedPoint], parameters: Floats) -> Floats:
    """log(measured / modelled) step time, [P]; equal for all points of one size and batch."""
    places = np.array([(point.gpus, point.nodes, point.batch) for point in points])
    gpus, nodes, batch = places.T
    measured = np.log([point.step_seconds for point in points])
    surplus = measured - _log_step(parameters[:, None], gpus, nodes, batch.astype(np.float64))[0]
    same = (places[:, None] == places).all(axis=2)
    mean: Floats = same @ surplus / same.sum(axis=1)
    return mean


@dataclass(frozen=True, kw_only=True, slots=True)
class _Table:
    """Points as arrays, [J, P]; weight 0 fills up."""

    gpus: Ints
    nodes: Ints
    batch: Floats
    log_step: Floats
    log_compute: Floats
    weight: Floats
    compute_weight: Floats

    def of(self, jobs: NDArray[np.bool_]) -> _Table:
        """The points of these jobs."""
        return _Table(**{name: getattr(self, name)[jobs] for name in _Table.__slots__})


def _table(groups: Sequence[Sequence[SpeedPoint]]) -> _Table:
    """Groups of points, filled up to one width with what weighs nothing."""
    many = np.array([[len(points)] for points in groups])
    width = int(many.max())
    filled = [[*points, *[points[0]] * (width - len(points))] for points in groups]
    compute = np.array([[p.compute_seconds or 0.0 for p in points] for points in filled])
    step = np.array([[p.step_seconds for p in points] for points in filled])
    weight = np.where(np.arange(width) < many, 1 / np.sqrt(many), 0.0)
    return _Table(
        gpus=np.array([[p.gpus for p in points] for points in filled]),
        nodes=np.array([[p.nodes for p in points] for points in filled]),
        batch=np.array([[p.batch for p in points] for points in filled], dtype=np.float64),
        log_step=np.log(step),
        log_compute=np.log(np.where(compute > 0, compute, step)),
        weight=weight,
        compute_weight=np.where(compute > 0, weight, 0.0),
    )


def _log_step(
    parameters: Floats, gpus: Ints, nodes: Ints, batch: Floats
) -> tuple[Floats, Floats, Floats, Floats]:
    """log T_step, log T_grad, T_sync / T_grad to the power of g, and that power's base.

    Args:
        parameters: [7, ...], each broadcast against the others.
        gpus: GPUs, at least 1.
        nodes: Nodes.
        batch: Global batch.
    """
    grad = parameters[_A_C] + parameters[_B_C] * batch / gpus
    more = np.maximum(gpus - 2, 0)
    inside = parameters[_A_R] + parameters[_B_R] * more
    across = parameters[_A_N] + parameters[_B_N] * more
    sync = np.where(gpus > 1, np.where(nodes > 1, across, inside), 0.0)
    ratio = sync / grad
    power = ratio ** parameters[_G]
    return np.log(grad) + np.log1p(power) / parameters[_G], np.log(grad), power, ratio


def _fit(groups: Sequence[Sequence[SpeedPoint]]) -> Floats:
    """Parameters of each group of points of one job and type, [J, 7]."""
    table = _table(groups)
    parameters: Floats = np.exp(_descend(table))
    alone = np.max(np.where(table.weight > 0, table.nodes, 1), axis=1) == 1
    inside = _WORSE_ACROSS_NODES * parameters[:, (_A_R, _B_R)]
    across = parameters[:, (_A_N, _B_N)]
    parameters[:, (_A_N, _B_N)] = np.where(alone[:, None], np.maximum(across, inside), across)
    return parameters


def _descend(table: _Table) -> Floats:
    """The logarithms of the parameters that fit best, [J, 7], by Levenberg's and Marquardt's method."""
    prior, x, low = _start(table)
    high = np.where(np.arange(7) == _G, np.log(_MAX_G), np.inf)
    found = x.copy()
    open_ = np.arange(len(x))
    residual, slope = _residuals(x, table, prior)
    cost = (residual**2).sum(axis=1)
    damping = np.full(len(x), 1e-3)
    for _ in range(_ITERATIONS):
        normal = slope.transpose(0, 2, 1) @ slope
        uphill = (residual[:, None, :] @ slope)[:, 0]
        # A parameter that is pressed against its bound stands still, or it would drag the others along.
        free: NDArray[np.bool_] = ((x > low) | (uphill <= 0)) & ((x < high) | (uphill >= 0))
        damped = np.where(free[:, :, None] & free[:, None, :], normal, 0.0)
        diagonal = np.diagonal(normal, axis1=1, axis2=2)
        damped += np.eye(7) * (damping[:, None] * (diagonal + 1e-6) + ~free)[:, None, :]
        step = np.linalg.solve(damped, (uphill * free)[..., None])[..., 0]
        tried = np.clip(x - np.clip(step, -_STRIDE, _STRIDE), low, high)
        new_residual, new_slope = _residuals(tried, table, prior)
        new_cost = (new_residual**2).sum(axis=1)
        better = new_cost < cost
        gained = np.where(better, cost - new_cost, 0.0)
        x[better], residual[better], slope[better] = tried[better], new_residual[better], new_slope[better]
        cost = np.where(better, new_cost, cost)
        damping = np.clip(np.where(better, damping / 4, damping * 4), 1e-9, 1e9)
        going = (gained > _CONVERGED * (cost + _CONVERGED**2)) | (~better & (damping < _HOPELESS))
        found[open_] = x
        if not going.any():
            break
        if not going.all():
            open_, x, low, prior, table = open_[going], x[going], low[going], prior[going], table.of(going)
            residual, slope, cost, damping = residual[going], slope[going], cost[going], damping[going]
    return found


def _start(table: _Table) -> tuple[Floats, Floats, Floats]:
    """The priors' centres, the first guess and the lower bounds, all [J, 7], as logarithms."""
    first = np.argmin(np.where(table.weight > 0, table.gpus, np.iinfo(np.int64).max), axis=1)
    rows = np.arange(len(first))
    step = np.exp(table.log_step[rows, first])
    local = table.batch[rows, first] / table.gpus[rows, first]
    work = (1 - _FIXED_PART) * step / local
    centre = np.tile(step[:, None] * _NEGLIGIBLE, (1, 7))
    centre[:, _A_C], centre[:, _B_C], centre[:, _G] = _FIXED_PART * step, work, 1.0
    guess = centre.copy()
    guess[:, (_A_R, _A_N)], guess[:, (_B_R, _B_N)] = 0.1 * step[:, None], 0.01 * step[:, None]
    guess[:, _G] = 1.5
    low = np.where(np.arange(7) == _G, 0.0, np.log(1e-6 * centre))
    return np.log(centre), np.log(guess), low


def _residuals(x: Floats, table: _Table, prior: Floats) -> tuple[Floats, NDArray[np.float64]]:
    """Weighted residuals, [J, R], and their slopes by the logarithms of the parameters, [J, R, 7]."""
    p = np.exp(x)
    jobs, width = table.gpus.shape
    log_step, log_grad, power, ratio = _log_step(p.T[:, :, None], table.gpus, table.nodes, table.batch)
    grad = np.exp(log_grad)
    part = power / (1 + power)  # of the step's slope that is due to T_sync
    more = np.maximum(table.gpus - 2, 0)
    several, across = table.gpus > 1, table.nodes > 1
    sync = np.where(several, ratio * grad, 1.0)  # never a divisor of 0; `part` is 0 there

    d_grad = np.zeros((jobs, width, 7))
    d_grad[..., _A_C] = p[:, None, _A_C] / grad
    d_grad[..., _B_C] = 1 - d_grad[..., _A_C]
    d_step = d_grad * (1 - part)[..., None]
    for here, a, b in ((several & ~across, _A_R, _B_R), (several & across, _A_N, _B_N)):
        d_step[..., a] = np.where(here, part * p[:, None, a] / sync, 0.0)
        d_step[..., b] = np.where(here, part * p[:, None, b] * more / sync, 0.0)
    g = p[:, None, _G]
    log_ratio = np.log(np.where(several, np.maximum(ratio, 1e-300), 1.0))
    d_step[..., _G] = part * log_ratio - np.log1p(power) / g

    residual = np.concatenate(
        [
            table.weight * (log_step - table.log_step),
            table.compute_weight * (log_grad - table.log_compute),
            _PULL * (x - prior),
        ],
        axis=1,
    )
    slope = np.concatenate(
        [
            table.weight[..., None] * d_step,
            table.compute_weight[..., None] * d_grad,
            np.broadcast_to(np.diag(_PULL), (jobs, 7, 7)),
        ],
        axis=1,
    )
    return residual, slope
