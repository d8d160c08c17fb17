"""The goodput rule and what is learned on top of it, as the operator runs them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cra_operator.controller.policies import attention, goodput, make, network, store, tokens
from cra_operator.controller.policies.attention import Attention
from cra_operator.controller.policies.choosing import ACTIONS, STATES, state_of, table_row
from cra_operator.controller.policies.double_dqn import DoubleDqn
from cra_operator.controller.policies.goodput import TUNED, Goodput, Preset
from cra_operator.controller.policies.network import SHAPES, Weights
from cra_operator.controller.policies.q_learning import QLearning
from cra_operator.controller.policies.sarsa import Sarsa
from cra_operator.controller.policies.store import Learned, WeightsError, load_network
from cra_operator.controller.policy import ClusterObservation, Floats, Sizes

SIZES = Sizes(gpus=np.array([0, 1, 2, 4, 8]), nodes=np.array([0, 1, 1, 1, 2]), kind=np.array([0, 0, 0, 0, 0]))


def seen(*remaining: float, gpus: int = 8, **other: object) -> ClusterObservation:
    """Jobs that scale well but not perfectly, all without GPUs, at the beginning."""
    jobs = len(remaining)
    plain = ClusterObservation(
        time=60.0,
        capacity=np.array([gpus]),
        node_gpus=np.array([4]),
        sizes=SIZES,
        ids=np.arange(jobs),
        rate=np.tile(SIZES.gpus**0.8, (jobs, 1)),
        throughput=np.tile(SIZES.gpus**0.8, (jobs, 1)),
        remaining=np.array(remaining),
        steps_left=np.array(remaining),
        age=np.full(jobs, 60.0),
        attained=np.zeros(jobs),
        restarts=np.zeros(jobs, dtype=np.int64),
        restart_seconds=np.full(jobs, 30.0),
        pause_left=np.zeros(jobs),
        current=np.zeros(jobs, dtype=np.int64),
        limit=np.full(jobs, 8),
        request=np.zeros(jobs, dtype=np.int64),
        priority=np.zeros(jobs),
    )
    return replace(plain, **other)  # type: ignore[arg-type]


def drawn(seed: int = 0, scale: float = 0.5) -> Weights:
    draws = np.random.default_rng(seed)
    return Weights(**{name: draws.normal(0, scale, shape) for name, shape in SHAPES.items()})


def learned(weights: Weights) -> Learned:
    return Learned(weights=weights, preset=TUNED, least_load=-2.0, most_load=3.0)


def test_the_shorter_of_two_jobs_gets_more() -> None:
    choice = Goodput(Preset(favour=0.5, concavity=0.5, damping=0.0)).decide(seen(1e3, 1e5)).choice
    assert SIZES.gpus[choice[0]] > SIZES.gpus[choice[1]]


def test_weights_sum_to_one_and_favour_the_shorter() -> None:
    weight = Goodput().decide(seen(1e3, 1e4, 1e5)).weight
    assert weight is not None
    assert weight.sum() == pytest.approx(1)
    assert (np.diff(weight) < 0).all()


def test_a_utility_is_that_of_the_formula() -> None:
    jobs = seen(
        1000.0, 5000.0, current=np.array([2, 0]), pause_left=np.array([10.0, 0.0]), age=np.full(2, 3600.0)
    )
    alone, base = goodput.single_gpu_seconds(jobs.rate, SIZES.gpus, jobs.remaining, jobs.attained)
    weight, thrift = np.array([0.7, 0.3]), np.array([2.0, 0.0])
    value = goodput.worth(
        jobs.rate, SIZES.gpus, jobs.limit, jobs.current, jobs.age, jobs.restarts, jobs.pause_left,
        jobs.restart_seconds, alone, base, weight, np.full(2, 0.5), np.full(2, 1.0), thrift, 0.0,
    )  # fmt: skip
    stays = 0.7 * (1000.0 / (1000.0 / 2**0.8 + 10.0)) ** 0.5 * (2**0.8 / 2) ** 2
    moves = 0.7 * (1000.0 / (1000.0 / 4**0.8 + 30.0 * np.e)) ** 0.5 * (4**0.8 / 4) ** 2
    assert value[0, [0, 2, 3]] == pytest.approx([0.0, stays, moves], rel=1e-4)


def test_two_jobs_that_only_change_places_stop_doing_so() -> None:
    age, restarts = np.full(2, 36_000.0), np.array([1_000, 1_000])
    jobs = seen(1e6, 9e5, age=age, restarts=restarts, current=np.array([3, 3]))
    alone, base = goodput.single_gpu_seconds(jobs.rate, SIZES.gpus, jobs.remaining, jobs.attained)
    half = np.full(2, 0.5)
    value = goodput.worth(
        jobs.rate, SIZES.gpus, jobs.limit, jobs.current, age, restarts, jobs.pause_left,
        jobs.restart_seconds, alone, base, half, np.ones(2), np.zeros(2), np.zeros(2), 0.0,
    )  # fmt: skip
    assert (value[:, 4] < value[:, 3]).all()


def test_a_size_beyond_the_limit_is_never_chosen() -> None:
    choice = Goodput().decide(seen(1e3, 1e3, limit=np.array([1, 2]))).choice
    assert (SIZES.gpus[choice] <= [1, 2]).all()


def test_a_restart_that_does_not_pay_is_not_made() -> None:
    for remaining, size in ((100.0, 3), (1e5, 4)):
        running = seen(remaining, current=np.array([3]), age=np.array([3600.0]))
        assert Goodput().decide(running).choice.tolist() == [size]


def test_jobs_that_declare_no_end_are_served_by_what_they_had() -> None:
    jobs = seen(np.nan, np.nan, attained=np.array([1e5, 0.0]))
    weight = Goodput().decide(jobs).weight
    assert weight is not None
    assert weight[1] > weight[0] > 0


def test_a_long_job_among_ever_new_short_ones_is_served_in_the_end() -> None:
    rule = Goodput(Preset(favour=1.0, concavity=1.0, damping=0.0))
    served = []
    for hour in range(1, 100):
        jobs = seen(
            1e6, *[100.0] * 4, gpus=4, time=3600.0 * hour, ids=np.array([0, *range(4 * hour, 4 * hour + 4)]),
            age=np.array([3600.0 * hour, *[60.0] * 4]), limit=np.ones(5, dtype=np.int64),
        )  # fmt: skip
        served.append(rule.decide(jobs).choice[0] > 0)
    assert not served[0]
    assert any(served)


def test_a_job_that_runs_on_four_gpus_only_counts_with_its_time_stretched() -> None:
    rate = np.array([[0.0, 0.0, 0.0, 8.0, 12.0]])
    alone, base = goodput.single_gpu_seconds(rate, SIZES.gpus, np.array([800.0]), np.zeros(1))
    assert (alone[0], base[0]) == (400.0, 2.0)


def test_no_jobs_are_no_trouble() -> None:
    nobody = seen()
    for policy in (Goodput(), Attention(learned(drawn()))):
        assert len(policy.decide(nobody).choice) == 0


def test_a_network_whose_last_layer_is_zero_is_the_rule() -> None:
    jobs = seen(1e3, 4e3, 2e4, 1e5, current=np.array([1, 0, 2, 0]), limit=np.array([2, 1, 4, 8]))
    silent = drawn()._replace(**{name: np.zeros(SHAPES[name]) for name in network.OUT})
    one, other = Attention(learned(silent)).decide(jobs), Goodput(TUNED).decide(jobs)
    assert one.choice.tolist() == other.choice.tolist()
    assert one.weight is not None
    assert other.weight is not None
    assert one.weight == pytest.approx(other.weight)


def test_what_a_network_says_depends_on_the_other_jobs() -> None:
    weights, lonely = drawn(), seen(1e4)
    among = seen(1e4, *[1e3] * 6)

    def first(jobs: ClusterObservation) -> Floats:
        alone, _ = goodput.single_gpu_seconds(jobs.rate, SIZES.gpus, jobs.remaining, jobs.attained)
        profile = tokens.speed_profile(jobs.rate, SIZES.gpus)
        held, limit = np.zeros(len(jobs)), jobs.limit.astype(float)
        x = tokens.job_tokens(alone, profile, jobs.age, jobs.attained, held, limit, jobs.restart_seconds, 8.0)
        x[0] = 0.5
        found: Floats = network.attend(x, np.zeros(tokens.CLUSTER), weights)[0]
        return found

    assert not np.allclose(first(lonely), first(among), atol=1e-3)


def test_the_order_of_jobs_does_not_matter() -> None:
    x, y = np.random.default_rng(1).normal(size=(9, tokens.JOBS)), np.ones(tokens.CLUSTER)
    out, turned = network.attend(x, y, drawn()), network.attend(x[::-1].copy(), y, drawn())
    assert out == pytest.approx(turned[::-1])


def test_beyond_the_loads_of_training_the_network_is_not_asked() -> None:
    many = seen(*np.geomspace(1e3, 1e5, 400))
    far = Attention(learned(drawn(scale=2.0))).decide(many)
    assert far.choice.tolist() == Goodput(TUNED).decide(many).choice.tolist()
    assert attention.trust(1.0, -2.0, 3.0) == 1
    assert 0 < attention.trust(3.2, -2.0, 3.0) < 1


def test_features_stay_in_range_whatever_the_cluster() -> None:
    odd = seen(1e-3, 1e12, np.nan, age=np.array([0.0, 1e9, 1.0]), restart_seconds=np.array([0.0, 1e5, 1.0]))
    alone, _ = goodput.single_gpu_seconds(odd.rate, SIZES.gpus, odd.remaining, odd.attained)
    profile = tokens.speed_profile(odd.rate, SIZES.gpus)
    held, limit = np.zeros(3), odd.limit.astype(float)
    x = tokens.job_tokens(alone, profile, odd.age, odd.attained, held, limit, odd.restart_seconds, 8.0)
    assert np.isfinite(x).all()
    assert np.abs(x).max() <= 3


def test_a_choice_of_preset_holds_for_ten_minutes() -> None:
    table = np.zeros((STATES, len(ACTIONS)))
    now = seen(1e3, 1e5)
    table[table_row(state_of(now)), 7] = 1
    policy = QLearning(table)
    policy.decide(now)
    assert policy.rule.preset == ACTIONS[7]
    table[:, 3] = 2
    policy.decide(replace(now, time=now.time + 540))
    assert policy.rule.preset == ACTIONS[7]
    policy.decide(replace(now, time=now.time + 600))
    assert policy.rule.preset == ACTIONS[3]


def test_sarsa_and_double_dqn_choose_the_largest_value() -> None:
    table = np.zeros((STATES, len(ACTIONS)))
    table[:, 4] = 1
    sarsa = Sarsa(table)
    sarsa.decide(seen(1e3))
    assert sarsa.rule.preset == ACTIONS[4]
    layers = {
        "weight0": np.ones((5, tokens.CLUSTER)),
        "bias0": np.zeros(5),
        "weight1": np.zeros((len(ACTIONS), 5)),
        "bias1": np.eye(len(ACTIONS))[9],
    }
    deep = DoubleDqn(layers)
    deep.decide(seen(1e3))
    assert deep.rule.preset == ACTIONS[9]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Weights as they are shipped."""
    store.write(tmp_path, "mine", drawn()._asdict(), store.numbers_of(TUNED, -2.0, 3.0))
    return tmp_path


def test_weights_are_read_as_they_were_written(folder: Path) -> None:
    found = load_network("mine", folder)
    assert found.preset == TUNED
    assert found.weights.embed == pytest.approx(drawn().embed, abs=1e-6)


def test_a_file_that_is_not_the_one_of_the_index_is_refused(folder: Path) -> None:
    raw = bytearray((folder / "mine.safetensors").read_bytes())
    raw[-1] ^= 1
    (folder / "mine.safetensors").write_bytes(raw)
    with pytest.raises(WeightsError, match=r"mine\.safetensors is not the file of the index"):
        load_network("mine", folder)


def test_tensors_of_another_network_are_refused(folder: Path) -> None:
    store.write(folder, "mine", {"embed": np.zeros((2, 2))}, store.numbers_of(TUNED, -2.0, 3.0))
    with pytest.raises(WeightsError, match=r"embed.*missing or of another shape"):
        load_network("mine", folder)


def test_weights_that_are_not_there_are_named(folder: Path) -> None:
    with pytest.raises(WeightsError, match="there are no weights of policy 'other'"):
        load_network("other", folder)
    assert json.loads((folder / "index.json").read_text()).keys() == {"mine"}


@pytest.mark.parametrize("name", ["q-learning", "sarsa"])
def test_a_shipped_table_leaves_no_state_to_the_order_of_the_actions(name: str) -> None:
    table = store.load_tensors(name)[0]["table"]
    assert ((table == table.max(axis=1, keepdims=True)).sum(axis=1) == 1).all()


@pytest.mark.parametrize("name", ["goodput", "q-learning", "sarsa", "double-dqn", "ppo", "attention"])
def test_what_is_shipped_decides_within_the_cluster(name: str) -> None:
    jobs = seen(1e3, 4e3, 2e4, np.nan, 1e6, limit=np.array([2, 1, 4, 8, 8]))
    choice = make(name).decide(jobs).choice
    assert SIZES.gpus[choice].sum() <= 8
    assert (SIZES.gpus[choice] <= jobs.limit).all()
    assert choice.any()


def test_the_card_is_about_the_weights_that_are_shipped() -> None:
    card, index = (
        (store.shipped() / "README.md").read_text(),
        json.loads((store.shipped() / "index.json").read_text()),
    )
    assert index.keys() == {"q-learning", "sarsa", "double-dqn", "ppo", "attention"}
    for name, entry in index.items():
        assert f"| `{name}` |" in card
        assert entry["sha256"] in card
