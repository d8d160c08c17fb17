"""What each published scheduler is known for, on clusters that can be followed by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cra_operator.controller.policies import make
from cra_operator.controller.policies.priority import Priority
from cra_operator.controller.policies.round_robin import RoundRobin
from cra_operator.controller.policies.static import Static
from cra_operator.controller.policy import ClusterObservation, Policy, Sizes
from cra_operator.controller.solver import solve
from cra_simulator.cluster import Cluster, NodePool
from cra_simulator.schedulers import SCHEDULERS
from cra_simulator.schedulers.afs import Afs
from cra_simulator.schedulers.fifo import Fifo
from cra_simulator.schedulers.gavel import Gavel, fractions
from cra_simulator.schedulers.optimus import Optimus
from cra_simulator.schedulers.pollux import Pollux
from cra_simulator.schedulers.sia import Sia, highs, worth
from cra_simulator.schedulers.srtf import Srtf
from cra_simulator.schedulers.tiresias import DEMOTION_GPU_SECONDS, Tiresias

MIXED = Cluster((NodePool(kind="slow", nodes=2, gpus=4), NodePool(kind="fast", nodes=1, gpus=4)))


def observed(jobs: int, cluster: Cluster | None = None, **changes: Any) -> ClusterObservation:
    """Jobs that came a minute ago, with linear speed-up; a second type is three times as fast."""
    cluster = cluster or Cluster((NodePool(kind="t4", nodes=2, gpus=4),))
    sizes = cluster.packed_sizes()
    rate = np.tile(sizes.gpus * (1.0 + 2.0 * sizes.kind), (jobs, 1))
    zeros, none = np.zeros(jobs), np.zeros(jobs, dtype=np.int64)
    seen = ClusterObservation(
        time=60.0, capacity=cluster.capacity, node_gpus=cluster.node_gpus, sizes=sizes, ids=np.arange(jobs),
        rate=rate, throughput=rate.copy(), remaining=zeros + 1000, steps_left=zeros + 1000, age=zeros + 60,
        attained=zeros, restarts=none, restart_seconds=zeros + 30, pause_left=zeros, current=none,
        limit=none + 100, request=none + 1, priority=zeros,
    )  # fmt: skip
    arrays: dict[str, Any] = {name: np.asarray(value) for name, value in changes.items()}
    return replace(seen, **arrays)


def given_gpus(policy: Policy, seen: ClusterObservation) -> list[int]:
    gpus: list[int] = seen.sizes.gpus[policy.decide(seen).choice].tolist()
    return gpus


def columns(seen: ClusterObservation, *gpus: int) -> list[int]:
    return [int(np.flatnonzero(seen.sizes.gpus == count)[0]) for count in gpus]


def asked(*gpus: int, **changes: Any) -> ClusterObservation:
    seen = observed(len(gpus))
    return observed(len(gpus), request=columns(seen, *gpus), **changes)


def test_fifo_waits_for_the_first_that_does_not_fit() -> None:
    assert given_gpus(Fifo(), asked(4, 8, 1)) == [4, 0, 0]


def test_static_passes_by_and_preempts_nobody() -> None:
    seen = asked(8, 4, 1)
    assert given_gpus(Static(), replace(seen, current=np.array([0, *columns(seen, 4), 0]))) == [0, 4, 1]
    assert given_gpus(Static("uniform", gpus=2), asked(8, 8, 8)) == [2, 2, 2]


def test_static_draws_once_for_each_job() -> None:
    policy, seen = Static("random", seed=3), asked(1)
    first = given_gpus(policy, seen)
    assert [given_gpus(policy, seen) for _ in range(5)] == [first] * 5


def test_static_starts_a_job_of_which_nothing_is_said_where_it_can_run() -> None:
    seen = observed(1, request=[0])
    narrow = np.where(seen.sizes.gpus >= 4, seen.rate, 0)
    assert given_gpus(Static(), replace(seen, rate=narrow)) == [4]
    assert given_gpus(Static("uniform", gpus=2), replace(seen, rate=narrow)) == [4]
    assert given_gpus(Static(), replace(seen, rate=0 * narrow)) == [0]


def test_static_keeps_what_others_chose() -> None:
    seen = asked(1, 1)
    assert given_gpus(Static(), replace(seen, current=np.array(columns(seen, 2, 4)))) == [2, 4]
    refused = np.where(seen.sizes.gpus == 4, 0, seen.rate)
    moved = replace(seen, rate=refused, current=np.array(columns(seen, 2, 4)))
    assert given_gpus(Static(), moved) == [2, 1]


def test_a_policy_is_made_by_its_name() -> None:
    assert make("round-robin") is not make("round-robin")
    with pytest.raises(ValueError, match="no policy 'best'; there are static, uniform"):
        make("best")


def test_round_robin_gives_everyone_a_turn() -> None:
    policy, seen = RoundRobin(turn_seconds=60), asked(8, 8, 8)
    turns = []
    for minute in range(1, 7):
        decision = policy.decide(replace(seen, time=60.0 * minute))
        turns.append(int(np.flatnonzero(decision.choice)[0]))
        seen = replace(seen, current=decision.choice)
    assert turns == [0, 1, 2, 0, 1, 2]


def test_round_robin_leaves_alone_who_is_not_waited_for() -> None:
    policy, seen = RoundRobin(turn_seconds=60), asked(4, 4)
    seen = replace(seen, current=policy.decide(seen).choice)
    assert given_gpus(policy, replace(seen, time=600.0)) == [4, 4]


def test_priority_preempts_the_less_important_only() -> None:
    seen = asked(8, 8, 8, priority=[0.0, 0.0, 1.0])
    assert given_gpus(Priority(), seen) == [0, 0, 8]
    equal = replace(seen, priority=np.zeros(3), current=np.array([0, *columns(seen, 8), 0]))
    assert given_gpus(Priority(), equal) == [0, 8, 0]


def test_srtf_serves_the_shortest_and_last_who_declares_no_end() -> None:
    assert given_gpus(Srtf(), asked(8, 8, 8, remaining=[9.0, 5.0, np.nan])) == [0, 8, 0]
    assert given_gpus(Srtf(), asked(8, 8, remaining=[np.nan, 5.0])) == [0, 8]


def test_tiresias_demotes_who_has_had_much_for_good() -> None:
    policy, seen = Tiresias(), asked(8, 8)
    running = replace(seen, current=np.array([*columns(seen, 8), 0]))
    assert given_gpus(policy, running) == [8, 0]
    assert given_gpus(policy, replace(running, attained=np.array([DEMOTION_GPU_SECONDS, 0.0]))) == [0, 8]
    assert given_gpus(policy, seen) == [0, 8]


def test_optimus_gives_the_next_gpu_where_it_saves_most() -> None:
    assert given_gpus(Optimus(), asked(1, 1, 1, steps_left=[10.0, 9.0, 10_000.0])) == [2, 2, 4]
    assert given_gpus(Optimus(), asked(1, 1, steps_left=[np.nan, 10.0])) == [1, 4]


def test_afs_serves_the_short_first_unless_the_long_is_more_efficient() -> None:
    many = asked(*[1] * 9, remaining=[100.0, 900.0, *range(7)])
    assert given_gpus(Afs(), replace(many, rate=many.rate**0.9)) == [1, 0, *[1] * 7]
    assert given_gpus(Afs(), asked(1, 1, remaining=[100.0, 1e5])) == [4, 4]
    flat, linear = [0, 1.0, 1.1, 1.2, 1.25], [0, 1.0, 2.0, 4.0, 8.0]
    seen = asked(1, 1, 1, remaining=[100.0, 1e5, 1e5], rate=[flat, linear, linear])
    # The last GPU is a left-over: it suffices for no step of the others.
    assert given_gpus(Afs(), seen) == [2, 4, 2]


def test_pollux_shares_fairly_among_equals_and_leaves_them_alone() -> None:
    seen = asked(1, 1)
    assert given_gpus(Pollux(), seen) == [4, 4]
    settled = replace(seen, current=np.array(columns(seen, 4, 2)), restarts=np.array([50, 50]))
    assert given_gpus(Pollux(), settled) == [4, 2]


def test_pollux_respects_the_limit() -> None:
    assert given_gpus(Pollux(), asked(1, 1, limit=[1, 2])) == [1, 2]


def test_gavel_gives_the_fast_type_to_whom_it_helps_most() -> None:
    seen = observed(3, MIXED)
    seen = replace(seen, request=np.array(columns(seen, 4, 4, 4)))
    indifferent = seen.throughput.copy()
    indifferent[:2] = seen.sizes.gpus
    seen = replace(seen, throughput=indifferent)
    slow, fast = (
        int(np.flatnonzero((seen.sizes.gpus == 4) & (seen.sizes.kind == kind))[0]) for kind in (0, 1)
    )
    x = fractions(seen, np.array([[slow, fast]] * 3))
    assert x.sum(axis=1) == pytest.approx(np.ones(3))
    assert x[2] == pytest.approx([0, 1])
    policy = Gavel()
    decision = policy.decide(seen)
    assert seen.sizes.kind[decision.choice].tolist() == [0, 0, 1]
    between = replace(seen, time=120.0, current=decision.choice)
    assert policy.decide(between).choice.tolist() == decision.choice.tolist()


def test_sia_takes_the_type_that_is_worth_most() -> None:
    seen = observed(1, MIXED)
    choice = int(Sia().decide(seen).choice[0])
    assert (seen.sizes.gpus[choice], seen.sizes.kind[choice]) == (4, 1)


def test_sia_leaves_alone_who_is_in_a_restart() -> None:
    seen = observed(2, MIXED, current=[1, 1], pause_left=[10.0, 0.0])
    choice = Sia().decide(seen).choice
    assert choice[0] == 1
    assert choice[1] != 1


@settings(max_examples=15)
@given(st.integers(1, 8), st.integers(0, 2**32 - 1))
def test_sias_program_is_the_knapsack(jobs: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    seen = observed(jobs, MIXED)
    seen = replace(
        seen,
        rate=seen.rate * random.uniform(0.2, 1.0, seen.rate.shape),
        current=random.integers(0, 3, jobs),
        age=random.uniform(0, 1000, jobs),
        restarts=random.integers(0, 5, jobs),
    )
    value = worth(seen)
    rows = np.arange(jobs)
    by_program, by_solver = (find(value, seen.sizes, seen.capacity) for find in (highs, solve))
    assert value[rows, by_program].sum() == pytest.approx(value[rows, by_solver].sum())


@pytest.mark.parametrize("name", [name for name, scheduler in SCHEDULERS.items() if not scheduler.mixed])
def test_who_knows_one_type_says_so(name: str) -> None:
    with pytest.raises(ValueError, match="the cluster has 2"):
        SCHEDULERS[name].make().decide(observed(1, MIXED))


def test_sizes_are_checked() -> None:
    one = np.array([0, 1])
    with pytest.raises(ValueError, match="begin with 0"):
        Sizes(gpus=one[1:], nodes=one[1:], kind=one[1:])
    with pytest.raises(ValueError, match="one length"):
        Sizes(gpus=one, nodes=one, kind=one[1:])
