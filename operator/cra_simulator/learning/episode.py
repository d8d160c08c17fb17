"""A whole episode in compiled code: what `cra_simulator.simulation` does, with the learned policy inside.

Training needs ten thousands of episodes, and from Python a decision costs more than everything else in a
tick. Here clock, placement, policy and solver are one compiled call, which stops after so many ticks and goes
on where it was: a learner that acts every ten minutes makes a call for each action. The policy's own
functions (`cra_operator.controller.policies`) are compiled as they are, not written again; what is written
again, the book-keeping between them, is tested to give the completion times of `simulate`.

NB: Numba's cache looks at this file only, not at what it calls; so what was compiled before the functions of
the policies changed is thrown away when this is imported (`_forget_stale`).
"""

from __future__ import annotations

import contextlib
import hashlib
import inspect
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numba.extending import register_jitable

from cra_operator.controller.policies.attention import numbers, trust
from cra_operator.controller.policies.goodput import alone_seconds, base_rate, log_weights, softmax, worth
from cra_operator.controller.policies.network import Weights, attend
from cra_operator.controller.policies.tokens import cluster_tokens, job_tokens, load_of, speed_profile
from cra_operator.controller.policy import Floats, Ints
from cra_simulator.advance import advance
from cra_simulator.compiled import kernel, knapsack
from cra_simulator.placement import pack

_COMPILED = (
    base_rate, alone_seconds, log_weights, softmax, worth, attend, load_of, cluster_tokens, job_tokens,
    speed_profile, numbers, trust, advance, knapsack, pack,
)  # fmt: skip


def _forget_stale() -> None:
    """Remove what Numba cached of this module if it was made of other sources."""
    sources = sorted(
        {inspect.getsourcefile(getattr(function, "py_func", function)) or "" for function in _COMPILED}
    )
    stamp = hashlib.sha256(b"".join(Path(source).read_bytes() for source in sources)).hexdigest()
    folder = Path(__file__).parent / "__pycache__"
    known = folder / "episode.sources"
    if known.exists() and known.read_text() == stamp:
        return
    # Where nothing can be written nothing was cached here.
    with contextlib.suppress(OSError):
        folder.mkdir(exist_ok=True)
        for index in folder.glob("episode.*.nbi"):
            index.unlink(missing_ok=True)
        known.write_text(stamp)


_forget_stale()
for _function in _COMPILED[:-3]:
    register_jitable(_function)


class World(NamedTuple):
    """What does not change in an episode. N jobs in order of submission, A rate tables, E epochs, K sizes.

    Attributes:
        interval: Seconds of a tick.
        submitted: Time of each submission, [N].
        table: The rate table of each job, [N].
        most: Most GPUs that each job can use, [N].
        restart: Seconds that a change costs each job, [N].
        blur_work: The factor by which the remaining work is misjudged, [N]; NaN for jobs that declare no end.
        seen: The rates that are seen of each job, [N]; V of them, each true ones of a table or misjudged.
        seen_rate: Progress/s as seen, [V, E, K].
        seen_profile: See `speed_profile`, [V, E, 4].
        seen_base: Progress/s of one GPU, [V, E].
        ends: Progress at the end of each epoch, [A, E].
        epochs: Epochs of each table, [A].
        work: Progress that is the whole work, [A].
        true_rate: Progress/s in each epoch, [A * K, E].
        gpus: GPUs of each size, [K].
        kind: Type of each size, [K].
        node_gpus: GPUs of each node, [M].
        node_kind: Their type, [M].
        capacity: GPUs of each type, [T].
    """

    interval: float
    submitted: Floats
    table: Ints
    most: Ints
    restart: Floats
    blur_work: Floats
    seen: Ints
    seen_rate: Floats
    seen_profile: Floats
    seen_base: Floats
    ends: Floats
    epochs: Ints
    work: Floats
    true_rate: Floats
    gpus: Ints
    kind: Ints
    node_gpus: Ints
    node_kind: Ints
    capacity: Ints


class State(NamedTuple):
    """What changes. Most arrays have a row for each active job, as `cra_simulator.rows`; [N] and longer.

    Attributes:
        clock: Seconds since the beginning, [1].
        counts: How many jobs are active, and how many were submitted, [2].
        cost: Seconds that jobs have been in the system, all together, [1]; at the end the sum of all
            completion times.
        floats: progress, pause_left, attained, waited, finished; [5, N].
        whole: index, table, running, gpus, epoch, limit, most, current, starts, restarts, turned; [11, N].
        rate: Goodput as the policy sees it, [N, K].
        profile: See `speed_profile`, [N, 4].
        base: Progress/s of one GPU, [N].
        held: GPUs on each node, [N, M].
        ended: When each job of the workload ended, [N].
        gpu_seconds: What it used, [N].
        moves: How often it was changed after its first start, [N].
    """

    clock: Floats
    counts: Ints
    cost: Floats
    floats: Floats
    whole: Ints
    rate: Floats
    profile: Floats
    base: Floats
    held: Ints
    ended: Floats
    gpu_seconds: Floats
    moves: Ints


class Rule(NamedTuple):
    """What the policy adds to the weights of its network; see `goodput.Preset` and `attention.Attention`."""

    favour: float
    concavity: float
    damping: float
    lost: float
    least_load: float
    most_load: float


def begin(world: World) -> State:
    """The state before anything happened."""
    jobs, sizes, nodes = len(world.submitted), len(world.gpus), len(world.node_gpus)
    return State(
        clock=np.zeros(1),
        counts=np.zeros(2, dtype=np.int64),
        cost=np.zeros(1),
        floats=np.zeros((5, jobs)),
        whole=np.zeros((11, jobs), dtype=np.int64),
        rate=np.zeros((jobs, sizes)),
        profile=np.zeros((jobs, 4)),
        base=np.zeros(jobs),
        held=np.zeros((jobs, nodes), dtype=np.int64),
        ended=np.zeros(jobs),
        gpu_seconds=np.zeros(jobs),
        moves=np.zeros(jobs, dtype=np.int64),
    )


@kernel
def run(world: World, state: State, weights: Weights, rule: Rule, noise: Floats, ticks: int) -> bool:
    """Let so many ticks pass.

    Args:
        world: The workload and the cluster.
        state: Goes on from here; changed in place.
        weights: Of the network; with a last layer of zeros only the rule decides.
        rule: Of the policy.
        noise: Added to what the network says about each job of the workload, [N, 4].
        ticks: How many.

    Returns:
        Whether all jobs are done.
    """
    for _ in range(ticks):
        if state.counts[0] == 0 and state.counts[1] == len(world.submitted):
            return True
        _tick(world, state)
        if state.counts[0] > 0:
            _apply(world, state, _decide(world, state, weights, rule, noise))
    return bool(state.counts[0] == 0 and state.counts[1] == len(world.submitted))


@kernel
def look(world: World, state: State) -> tuple[Floats, Floats, Ints]:
    """What the network sees now: tokens [J, F], cluster state [C], and the number of each job [J]."""
    count = state.counts[0]
    alone, held, limit = _known(world, state)
    capacity = float(np.sum(world.capacity))
    x = job_tokens(
        alone, state.profile[:count], _age(world, state), state.floats[2, :count], held, limit,
        _restart(world, state), capacity,
    )  # fmt: skip
    y = cluster_tokens(alone, state.profile[:count], held, limit, capacity)
    return x, y, state.whole[0, :count].copy()


@kernel
def _known(world: World, state: State) -> tuple[Floats, Floats, Floats]:
    """Seconds on one GPU, GPUs held and growth limit of each active job."""
    count = state.counts[0]
    whole = state.whole
    index = whole[0, :count]
    remaining = (world.work[whole[1, :count]] - state.floats[0, :count]) * world.blur_work[index]
    alone = alone_seconds(state.base[:count], remaining, state.floats[2, :count])
    return alone, whole[3, :count].astype(np.float64), whole[5, :count].astype(np.float64)


@kernel
def _age(world: World, state: State) -> Floats:
    age: Floats = state.clock[0] - world.submitted[state.whole[0, : state.counts[0]]]
    return age


@kernel
def _restart(world: World, state: State) -> Floats:
    restart: Floats = world.restart[state.whole[0, : state.counts[0]]]
    return restart


@kernel
def _tick(world: World, state: State) -> None:
    """Jobs advance, leave and come."""
    whole, floats = state.whole, state.floats
    interval, clock = world.interval, state.clock
    count = state.counts[0]
    if count == 0:
        waits = np.ceil(world.submitted[state.counts[1]] / interval) - 1
        clock[0] = max(clock[0], waits * interval)
    before = clock[0]
    ended, turned = advance(
        before, interval, whole[1, :count], whole[2, :count], whole[3, :count], whole[4, :count],
        floats[0, :count], floats[1, :count], floats[2, :count], whole[5, :count], world.ends, world.epochs,
        world.true_rate, whole[6, :count], floats[4, :count], whole[10, :count],
    )  # fmt: skip
    clock[0] += interval
    now = clock[0]
    for j in range(count):
        if floats[4, j] == 0:
            # Jobs that came in the last tick were there for a part of it.
            state.cost[0] += interval
        else:
            state.cost[0] += floats[4, j] - before
    if ended > 0:
        kept = 0
        for j in range(count):
            if floats[4, j] > 0:
                index = whole[0, j]
                state.ended[index] = floats[4, j]
                state.gpu_seconds[index] = floats[2, j]
                state.moves[index] = whole[9, j]
                continue
            if kept < j:
                floats[:, kept] = floats[:, j]
                whole[:, kept] = whole[:, j]
                state.rate[kept] = state.rate[j]
                state.profile[kept] = state.profile[j]
                state.base[kept] = state.base[j]
                state.held[kept] = state.held[j]
            kept += 1
        count = kept
    if turned > 0:
        for j in range(count):
            if whole[10, j] > 0:
                _turn(world, state, j)
    while state.counts[1] < len(world.submitted) and world.submitted[state.counts[1]] <= now:
        index = state.counts[1]
        floats[:, count] = 0.0
        floats[3, count] = -1.0
        whole[:, count] = 0
        whole[0, count] = index
        whole[1, count] = world.table[index]
        whole[2, count] = -1
        whole[5, count] = min(1, world.most[index])
        whole[6, count] = world.most[index]
        state.held[count] = 0
        _turn(world, state, count)
        state.cost[0] += now - world.submitted[index]
        state.counts[1] += 1
        count += 1
    state.counts[0] = count


@kernel
def _turn(world: World, state: State, j: int) -> None:
    """What a new epoch changes."""
    seen, epoch = world.seen[state.whole[0, j]], state.whole[4, j]
    state.rate[j] = world.seen_rate[seen, epoch]
    state.profile[j] = world.seen_profile[seen, epoch]
    state.base[j] = world.seen_base[seen, epoch]


@kernel
def _decide(world: World, state: State, weights: Weights, rule: Rule, noise: Floats) -> Ints:
    count = state.counts[0]
    whole, floats = state.whole, state.floats
    age, restart = _age(world, state), _restart(world, state)
    for j in range(count):
        if floats[3, j] < 0:
            floats[3, j] = age[j]
        elif whole[7, j] > 0:
            floats[3, j] = max(floats[3, j] - world.interval, 0.0)
        else:
            floats[3, j] += world.interval
    capacity = float(np.sum(world.capacity))
    alone, held, limit = _known(world, state)
    profile = state.profile[:count]
    x = job_tokens(alone, profile, age, floats[2, :count], held, limit, restart, capacity)
    out = attend(x, cluster_tokens(alone, profile, held, limit, capacity), weights)
    faith = trust(load_of(count, capacity), rule.least_load, rule.most_load)
    for j in range(count):
        for i in range(out.shape[1]):
            out[j, i] = faith * (out[j, i] + noise[whole[0, j], i])
    weight, power, damp, thrift = numbers(
        out, alone, floats[3, :count], rule.favour, rule.concavity, rule.damping
    )
    value = worth(
        state.rate[:count], world.gpus, whole[5, :count], whole[7, :count], age, whole[9, :count],
        floats[1, :count], restart, alone, state.base[:count], weight, power, damp, thrift, rule.lost,
    )  # fmt: skip
    return knapsack(value, world.gpus, world.capacity[0])


@kernel
def _apply(world: World, state: State, choice: Ints) -> None:
    """Give jobs the sizes that were decided."""
    count = state.counts[0]
    whole, floats = state.whole, state.floats
    changed = np.zeros(count, dtype=np.int64)
    some = False
    for j in range(count):
        if choice[j] != whole[7, j]:
            changed[j] = 1
            some = True
    if not some:
        return
    gpus, kind = world.gpus[choice], world.kind[choice]
    before = state.held[:count].copy()
    pack(state.held[:count], gpus, kind, changed, world.node_gpus, world.node_kind)
    sizes = len(world.gpus)
    for j in range(count):
        whole[7, j] = choice[j]
        whole[3, j] = gpus[j]
        if changed[j] == 0:
            continue
        if gpus[j] == 0:
            whole[2, j] = -1
        elif (state.held[j] != before[j]).any():
            whole[2, j] = whole[1, j] * sizes + choice[j]
            floats[1, j] = world.restart[whole[0, j]]
            if whole[8, j] > 0:
                whole[9, j] += 1
            whole[8, j] += 1
