"""Policies that go on learning: what pays is chosen more often, within bounds, and never for worse."""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from cra_operator.api import Condition, Job, JobStatus, ObjectiveSpec
from cra_operator.controller.census import relative_reward
from cra_operator.controller.policies import LEARNERS, make, online
from cra_operator.controller.policies.choosing import ACTIONS, NUMBERS, SECONDS, STATES, Choosing
from cra_operator.controller.policies.double_dqn import values
from cra_operator.controller.policies.keeping import pack, unpack
from cra_operator.controller.policies.online import BOUND, Choice, Moment, Online
from cra_operator.controller.policies.store import load_tensors
from cra_operator.controller.policies.temporal import UNTRIED, off_policy, on_policy, step
from cra_operator.controller.policy import ClusterObservation, Floats
from cra_operator.controller.proposing import select
from cra_simulator.learning.q_learning import QLearning
from cra_simulator.learning.sarsa import Sarsa
from cra_simulator.learning.tabular import Tabular
from tests.controller.deciding_world import a_job, observe, waiting
from tests.operator.operator_world import START, make_job
from tests.simulator.test_simulator_learning import Corridor

BEST, SECOND, THIRD, BAD = 4, 7, 9, 1
SHIPPED = np.full(len(ACTIONS), -2.0)
SHIPPED[[BEST, SECOND, THIRD, BAD]] = [-1.0, -1.01, -1.02, -1.5]
FIRST = 25
"""Choices until it is known what is usual."""
LONG = 3000
"""Choices; three weeks of them."""


def a_learner(*, worth: Any = off_policy) -> Online:
    """One that knows the same in every state."""
    return Online(
        policy="q-learning",
        actions=len(ACTIONS),
        features=STATES,
        numbers=NUMBERS,
        worth=worth,
        draws=np.random.default_rng(0),
    )


def moment(shipped: Floats = SHIPPED, row: int = 5, load: float = 0.0) -> Moment:
    state = np.array([load, *[0.0] * (NUMBERS - 1)])
    return Moment(shipped=shipped, features=np.eye(STATES)[row], state=state)


def live(learner: Online, rewards: dict[int, float], choices: int, *, noise: float = 0.0) -> list[int]:
    """Make choices that bring these rewards, 1 where none is given; returns them."""
    draws, made = np.random.default_rng(1), learner.choose(moment(), 0.0)
    taken = []
    for k in range(1, choices + 1):
        then = learner.choose(moment(), SECONDS * k)
        taken.append(made.action)
        learner.learn(made, rewards.get(made.action, 1.0) * float(np.exp(noise * draws.normal())), then)
        made = then
    return taken


@pytest.mark.parametrize("worth", [off_policy, on_policy])
def test_a_preset_that_pays_more_than_the_shipped_one_is_chosen_in_the_end(worth: Any) -> None:
    learner = a_learner(worth=worth)
    taken = live(learner, {SECOND: 1.3}, LONG, noise=0.1)
    assert taken[0] == BEST
    assert np.mean(np.array(taken[-200:]) == SECOND) > 0.85
    assert learner.standing == pytest.approx(np.log(1.3), abs=0.1)
    assert learner.returns == 0


def test_where_rewards_are_as_usual_nothing_is_learned() -> None:
    learner = a_learner()
    live(learner, {}, 500)
    assert learner.updates == 500
    assert learner.distance == pytest.approx(0.0, abs=1e-9)


def test_a_reward_that_follows_from_the_load_is_nobodys_merit() -> None:
    learner, draws = a_learner(), np.random.default_rng(2)
    made = learner.choose(moment(load=0.0), 0.0)
    for k in range(1, LONG):
        then = learner.choose(moment(load=float(draws.uniform(-1.0, 2.0))), SECONDS * k)
        learner.learn(made, float(np.exp(1.0 - 0.8 * made.moment.state[0])), then)
        made = then
    assert learner.distance < 0.05


def test_noise_alone_does_not_lead_far_from_what_was_shipped() -> None:
    learner = a_learner()
    taken = live(learner, {}, LONG, noise=0.2)
    assert np.mean(np.array(taken) == BEST) > 0.85
    assert learner.distance < 0.5


def test_chance_tries_now_and_then_what_is_nearly_as_good_and_nothing_else() -> None:
    taken = np.array(live(a_learner(), {}, LONG))
    assert set(taken.tolist()) == {BEST, SECOND, THIRD}
    assert 0.02 < np.mean(taken != BEST) < 0.05


def test_however_much_it_pays_values_stay_within_the_bound() -> None:
    learner = a_learner()
    live(learner, {SECOND: 50.0, BEST: 0.001}, LONG)
    assert learner.distance <= 1
    moved = learner.values(moment()) - SHIPPED
    assert np.abs(moved).max() <= BOUND * 1.0 + 1e-12
    assert learner.values(moment()).argmax() != BAD


def test_what_turns_out_worse_is_dropped_for_what_was_shipped(caplog: pytest.LogCaptureFixture) -> None:
    learner = a_learner()
    live(learner, {SECOND: 1.5}, LONG)
    assert learner.values(moment()).argmax() == SECOND
    usual = learner.tensors()["products"]
    made = Choice(moment=moment(), action=SECOND, chance=False, time=0.0)
    for _ in range(200):
        if learner.returns:
            break
        learner.learn(made, 0.6, made)
    assert learner.returns == 1
    assert (learner.values(moment()) == SHIPPED).all()
    assert "what policy q-learning learned online brings" in caplog.text
    assert (learner.tensors()["products"] == usual).all(), "what shipped choices bring is still known"


def test_states_that_training_never_saw_stay_as_they_are() -> None:
    unseen = moment(np.full(len(ACTIONS), UNTRIED))
    learner = a_learner()
    made = learner.choose(unseen, 0.0)
    for reward in (1.0, 9.0, 0.1):
        learner.learn(replace(made, action=0), reward, made)
        learner.learn(replace(made, action=3), reward, made)
    assert (learner.values(unseen) == unseen.shipped).all()


@pytest.mark.parametrize(("trained_by", "worth"), [(QLearning, off_policy), (Sarsa, on_policy)])
def test_a_value_moves_by_the_rule_of_the_learner_that_trained_it(
    trained_by: type[Tabular], worth: Any
) -> None:
    trainer = trained_by(Corridor(), Corridor(), range(1), 1, 0)
    after = np.linspace(-0.9, -0.8, len(ACTIONS))
    taken = 2
    learner = a_learner(worth=worth)
    before, then = moment(row=5), moment(after, row=6)
    made = Choice(moment=before, action=SECOND, chance=False, time=0.0)
    for _ in range(FIRST):
        learner.learn(replace(made, action=BEST), 1.0, made)
    learner.learn(made, 1.2, Choice(moment=then, action=taken, chance=False, time=0.0))
    worth_then = trainer.target(after, taken)
    implied = SHIPPED[SECOND] - 0.97 * worth_then
    reward = implied + online.WEIGHT * 0.03 * 1.0 * np.log(1.2)
    moved = learner.values(before)[SECOND] - SHIPPED[SECOND]
    assert moved == pytest.approx(step(SHIPPED[SECOND], reward, worth_then, online.RATE))
    assert moved > 0


def test_a_network_is_corrected_for_states_like_those_that_it_was_in() -> None:
    layers = load_tensors("double-dqn")[0]

    def at(state: list[float]) -> Moment:
        shipped, features = values(np.array(state), layers)
        return Moment(shipped=shipped, features=features, state=np.array(state))

    here, near, far = at([0.5, 0.3, 0.2, 0.1]), at([0.52, 0.3, 0.2, 0.1]), at([-1.0, 1.0, 0.0, 0.0])
    learner = LEARNERS["double-dqn"]()
    usual = Choice(moment=here, action=here.best, chance=False, time=0.0)
    other = replace(usual, action=int(here.shipped.argsort()[-2]), chance=True)
    for _ in range(FIRST):
        learner.learn(usual, 1.0, usual)
    learner.learn(other, 1.3, usual)
    gained = [(learner.values(m) - m.shipped)[other.action] / m.size for m in (here, near, far)]
    assert gained[0] == pytest.approx(online.RATE * online.WEIGHT * 0.03 * np.log(1.3))
    assert gained[1] == pytest.approx(gained[0], rel=0.05)
    assert abs(gained[2]) < 0.5 * gained[0]


def seen(reward: list[float], *, time: float) -> ClusterObservation:
    jobs = [a_job(f"j{i}") for i in range(len(reward))]
    return replace(observe(jobs, 8), time=time, reward=np.array(reward))


def decide_for(policy: Choosing, reward: list[float], *, begin: float, looks: int = 40) -> None:
    for k in range(looks):
        policy.decide(seen(reward, time=begin + SECONDS * k / looks))


def test_a_choice_is_learned_from_when_the_next_is_made_from_looks_whose_rewards_are_known() -> None:
    learner = a_learner()
    policy = make("q-learning", {"q-learning": learner})
    assert isinstance(policy, Choosing)
    decide_for(policy, [1.0, 1.5], begin=SECONDS)
    assert learner.updates == 0
    policy.decide(seen([1.0, 1.5], time=2 * SECONDS))
    assert learner.updates == 1
    assert learner.tensors()["products"][0] == pytest.approx(np.log(1.25))


@pytest.mark.parametrize("missing", [[np.nan, np.nan], [np.nan, np.nan, 1.0]])
def test_nothing_is_learned_from_jobs_whose_metrics_are_missing(missing: list[float]) -> None:
    learner = LEARNERS["sarsa"]()
    policy = make("sarsa", {"sarsa": learner})
    assert isinstance(policy, Choosing)
    decide_for(policy, missing, begin=SECONDS)
    decide_for(policy, [1.0, 1.0], begin=2 * SECONDS)
    assert learner.updates == 0
    decide_for(policy, [1.0, 1.0], begin=3 * SECONDS)
    assert learner.updates == 1


def test_nothing_is_learned_over_a_time_in_which_nobody_looked() -> None:
    learner = LEARNERS["sarsa"]()
    policy = make("sarsa", {"sarsa": learner})
    policy.decide(seen([1.0], time=SECONDS))
    policy.decide(seen([1.0], time=9 * SECONDS))
    assert learner.updates == 0


def test_without_being_told_to_nothing_is_learned() -> None:
    learner = LEARNERS["sarsa"]()
    policy = make("q-learning", {"sarsa": learner})
    assert isinstance(policy, Choosing)
    decide_for(policy, [1.0], begin=SECONDS)
    decide_for(policy, [1.0], begin=2 * SECONDS)
    assert learner.updates == 0


def trains(**status: Any) -> Job:
    fresh = Condition.model_validate(
        {"type": "MetricsAvailable", "status": "True", "reason": "Fresh", "lastTransitionTime": START}
    )
    found = {"phase": "Running", "reward": 3.0, "conditions": [fresh], **status}
    return make_job().model_copy(update={"status": JobStatus.model_validate(found)})


def test_rewards_of_jobs_with_other_objectives_are_alike() -> None:
    job = trains()
    assert relative_reward(job) == 1.5
    dear = job.spec.model_copy(update={"objective": ObjectiveSpec(alpha=8, beta=2)})
    assert relative_reward(job.model_copy(update={"spec": dear})) == pytest.approx(0.3)


def test_a_job_that_waits_brings_nothing_and_one_that_changes_or_only_hears_advice_tells_nothing() -> None:
    assert relative_reward(make_job()) == 0
    assert np.isnan(relative_reward(trains(phase="Rescaling")))
    assert np.isnan(relative_reward(trains(conditions=[])))
    assert np.isnan(relative_reward(trains(reward=None)))
    assert np.isnan(relative_reward(make_job(scaling={"mode": "Recommend"})))


def test_a_policy_sees_the_rewards_of_its_own_jobs() -> None:
    jobs = replace(observe([a_job("a"), a_job("b"), waiting("c")], 8), reward=np.array([1.0, 2.0, 0.0]))
    part = select(jobs, [1, 2], 4).reward
    assert part is not None
    assert part.tolist() == [2.0, 0.0]


@pytest.fixture
def taught() -> dict[str, Online]:
    """All that can learn, after a while."""
    learned = {name: begin() for name, begin in LEARNERS.items()}
    for learner in learned.values():
        features = np.eye(learner.tensors()["weights"].shape[1])[5]
        here = replace(moment(), features=features)
        usual = Choice(moment=here, action=BEST, chance=False, time=0.0)
        for _ in range(FIRST):
            learner.learn(usual, 1.0, usual)
            learner.learn(replace(usual, action=SECOND), 1.4, usual)
    return learned


def fresh() -> dict[str, Online]:
    return {name: begin() for name, begin in LEARNERS.items()}


def test_what_was_learned_is_read_as_it_was_kept(taught: dict[str, Online]) -> None:
    after = fresh()
    assert unpack(json.loads(json.dumps(pack(taught))), after) == {}
    for name, learner in after.items():
        assert learner.updates == 2 * FIRST
        assert learner.distance == pytest.approx(taught[name].distance, rel=1e-5)
        assert learner.distance > 0
        for key, value in taught[name].tensors().items():
            assert learner.tensors()[key] == pytest.approx(value, rel=1e-6)


def corrupt(kept: dict[str, Any]) -> None:
    raw = bytearray(b64decode(kept["binaryData"]["sarsa.safetensors"]))
    raw[-1] ^= 1
    kept["binaryData"]["sarsa.safetensors"] = b64encode(raw).decode()


def of_other_weights(kept: dict[str, Any]) -> None:
    index = json.loads(kept["data"]["index.json"])
    index["sarsa"]["shipped"] = "0" * 64
    kept["data"]["index.json"] = json.dumps(index)


def of_another_policy(kept: dict[str, Any]) -> None:
    index, files = json.loads(kept["data"]["index.json"]), kept["binaryData"]
    files["sarsa.safetensors"] = files["double-dqn.safetensors"]
    index["sarsa"]["sha256"] = index["double-dqn"]["sha256"]
    kept["data"]["index.json"] = json.dumps(index)


def without_its_file(kept: dict[str, Any]) -> None:
    del kept["binaryData"]["sarsa.safetensors"]


def no_base64(kept: dict[str, Any]) -> None:
    kept["binaryData"]["sarsa.safetensors"] = "hello!"


def no_json(kept: dict[str, Any]) -> None:
    kept["data"]["index.json"] = "q-learning: yes"


def another_json(kept: dict[str, Any]) -> None:
    kept["data"]["index.json"] = json.dumps({**json.loads(kept["data"]["index.json"]), "sarsa": "mine"})


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (corrupt, "not the file of index.json"),
        (of_other_weights, "grew from other weights"),
        (of_another_policy, "not those of this policy"),
        (without_its_file, "lacks 'sarsa.safetensors'"),
        (no_base64, "base64"),
        (no_json, "index.json cannot be read"),
        (another_json, "indices must be integers"),
    ],
)
def test_what_does_not_check_out_is_refused_and_the_policy_begins_anew(
    taught: dict[str, Online], spoil: Any, why: str
) -> None:
    kept: dict[str, Any] = pack(taught)
    spoil(kept)
    after = fresh()
    refused = unpack(kept, after)
    assert why.lower() in refused["sarsa"].lower()
    assert after["sarsa"].updates == 0
    assert (after["q-learning"].updates > 0) == ("q-learning" not in refused)


@pytest.mark.parametrize(
    ("change", "why"),
    [(lambda w: w * np.nan, "no numbers"), (lambda w: w + 1.0, "more than 0.05 from those")],
)
def test_weights_out_of_bounds_are_refused_even_with_a_good_hash(
    taught: dict[str, Online], change: Any, why: str
) -> None:
    taught["sarsa"]._weights = change(taught["sarsa"]._weights)
    after = fresh()
    assert why in unpack(pack(taught), after)["sarsa"]
    assert after["sarsa"].updates == 0


def test_a_record_that_cannot_be_is_refused(taught: dict[str, Online]) -> None:
    taught["sarsa"].differed = -1
    after = fresh()
    assert "counts less than nothing" in unpack(pack(taught), after)["sarsa"]


def test_a_config_map_with_nothing_in_it_is_no_trouble() -> None:
    assert unpack({}, fresh()) == {}
