"""Learning policies: the compiled episode, the environment, the learners and the loop that trains them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env

from cra_operator.controller.policies.attention import Attention
from cra_operator.controller.policies.choosing import ACTIONS, NUMBERS
from cra_operator.controller.policies.goodput import TUNED, UNTUNED, Goodput
from cra_operator.controller.policies.network import OUTPUTS, SHAPES, Weights, attend
from cra_operator.controller.policies.store import Learned
from cra_operator.controller.policies.tokens import CLUSTER as CLUSTER_NUMBERS
from cra_operator.controller.policies.tokens import JOBS
from cra_operator.controller.policy import Floats, Policy
from cra_simulator.blur import Blurred
from cra_simulator.learning.acting import Actor, Step
from cra_simulator.learning.env import ClusterEnv, rule_of
from cra_simulator.learning.episode import Rule, begin, run
from cra_simulator.learning.network import AttentionNetwork
from cra_simulator.learning.ppo import LAMBDA, advantages
from cra_simulator.learning.q_learning import QLearning
from cra_simulator.learning.recipes import BUDGETS, CHOOSERS, LEAST_LOAD, MOST_LOAD, RULE, make
from cra_simulator.learning.sarsa import Sarsa
from cra_simulator.learning.score import episode, no_weights, random_weights
from cra_simulator.learning.train import Budget, train
from cra_simulator.learning.worlds import Disturbance, lay_over
from cra_simulator.simulation import Rules, simulate
from tests.simulator.small import CLUSTER
from tests.simulator.tiny import JOBS as COUNT
from tests.simulator.tiny import RATES, WORLDS, Tiny, jobs


def drawn(scale: float = 0.3) -> Weights:
    draws = np.random.default_rng(5)
    return Weights(**{name: draws.normal(0, scale, shape) for name, shape in SHAPES.items()})


@pytest.mark.parametrize("restart", [30.0, 120.0])
def test_the_compiled_episode_ends_jobs_when_the_simulator_does(restart: float) -> None:
    learned = Learned(weights=drawn(), preset=TUNED, least_load=LEAST_LOAD, most_load=MOST_LOAD)
    policies: list[tuple[Policy, Weights, Rule]] = [
        (Goodput(UNTUNED), no_weights(), rule_of(UNTUNED)),
        (Attention(learned), drawn(), RULE),
    ]
    for policy, weights, rule in policies:
        world = WORLDS.world(jobs(3), Disturbance(restart=restart))
        state = begin(world)
        assert run(world, state, weights, rule, np.zeros((COUNT, OUTPUTS)), 5000)
        slow = simulate(jobs(3), RATES, CLUSTER, policy, rules=Rules(restart=restart))
        assert state.ended - world.submitted == pytest.approx(slow.completion_seconds)
        assert state.cost[0] == pytest.approx(slow.completion_seconds.sum())
        assert state.moves.tolist() == [job.restarts for job in slow.jobs]
        assert state.gpu_seconds == pytest.approx([job.gpu_seconds for job in slow.jobs])


def test_a_misjudged_world_is_what_a_blurred_policy_sees() -> None:
    world = WORLDS.world(jobs(3), Disturbance(work_sigma=1.0), seed=9)
    blurred = Blurred(Goodput(TUNED))
    blurred._work_error = dict(enumerate(world.blur_work.tolist()))
    blurred._work_sigma = 1.0
    slow = simulate(jobs(3), RATES, CLUSTER, blurred)
    assert episode(world, no_weights(), rule_of(TUNED)).mean == pytest.approx(slow.mean_seconds)


def test_an_episode_in_pieces_is_the_same_episode() -> None:
    world, quiet = WORLDS.world(jobs(1)), np.zeros((COUNT, OUTPUTS))
    whole, pieces = begin(world), begin(world)
    run(world, whole, drawn(), RULE, quiet, 5000)
    while not run(world, pieces, drawn(), RULE, quiet, 7):
        pass
    assert (whole.ended == pieces.ended).all()


def test_torch_and_numpy_say_the_same() -> None:
    draws = np.random.default_rng(0)
    for count in (1, 7, 60):
        x, y = draws.normal(size=(count, JOBS)), draws.normal(size=CLUSTER_NUMBERS)
        padded = np.zeros((1, 70, JOBS))
        padded[0, :count] = x
        mask = torch.arange(70)[None] < count
        net = AttentionNetwork(drawn())
        said = net(torch.tensor(padded).float(), torch.tensor(y)[None].float(), mask)
        assert said[0, :count].detach().numpy() == pytest.approx(attend(x, y, drawn()), abs=1e-5)


def test_the_environment_is_a_gymnasium_environment() -> None:
    env = ClusterEnv(Tiny().draw)
    check_env(env, skip_render_check=True)
    assert isinstance(env.action_space, gymnasium.spaces.Discrete)
    assert env.action_space.n == len(ACTIONS)


def test_rewards_of_an_episode_sum_to_minus_its_completion_time_over_the_rules() -> None:
    env = ClusterEnv(Tiny().draw)
    env.reset(seed=2)
    total, over = 0.0, False
    while not over:
        _, reward, over, _, info = env.step(np.int64(3))
        total += reward
    mean = episode(Tiny().draw(2), no_weights(), rule_of(ACTIONS[3])).mean
    reference = episode(Tiny().draw(2), no_weights(), rule_of(UNTUNED)).mean
    assert info["over_rule"] == pytest.approx(mean / reference)
    # What passed before the first action was nobody's choice.
    assert -total == pytest.approx(mean / reference, rel=0.05)
    assert info["reward"] > 0


def test_advantages_are_those_of_the_formula() -> None:
    def step(reward: float, over: bool) -> Step:
        return Step(
            x=np.zeros((1, JOBS)),
            y=np.zeros(1),
            left=0.0,
            noise=np.zeros((1, OUTPUTS)),
            reward=reward,
            over=over,
        )

    steps = [step(-1.0, False), step(-2.0, True), step(-4.0, True)]
    found = advantages(steps, np.array([-2.5, -1.0, -3.0]))
    assert found.tolist() == pytest.approx([-1.0 - 1.0 + 2.5 + LAMBDA * -1.0, -1.0, -1.0])


def test_an_actor_plays_one_world_after_the_other() -> None:
    actor, draws = Actor(Tiny().draw, RULE, 0), np.random.default_rng(0)
    while len(actor.over_rule) < 2:
        assert np.isfinite(actor.act(no_weights(), draws).noise).all()
    assert actor.seed == 2


class Corridor(ClusterEnv):
    """Ten steps; action 5 costs nothing, every other one a tenth of the whole."""

    def __init__(self) -> None:
        super().__init__(Tiny().draw)

    def reset(self, *, seed: int | None = None, options: object = None) -> tuple[Floats, dict[str, object]]:
        self._at, self._cost = 0, 0.0
        return np.zeros(NUMBERS), {}

    def step(self, action: np.int64) -> tuple[Floats, float, bool, bool, dict[str, object]]:
        self._at += 1
        reward = 0.0 if action == 5 else -0.1
        self._cost -= reward
        return np.zeros(NUMBERS), reward, self._at == 10, False, {"over_rule": self._cost}


@pytest.mark.parametrize("name", ["q-learning", "sarsa", "double-dqn"])
def test_a_chooser_learns_the_action_that_costs_least(name: str) -> None:
    learner = CHOOSERS[name](Corridor(), Corridor(), range(1), 80, 0)
    before = learner.score()
    for _ in range(80):
        learner.step()
    assert before == pytest.approx(1.0)
    assert learner.score() == 0


def test_q_learning_counts_on_the_best_next_action_and_sarsa_on_the_one_taken() -> None:
    values = np.array([1.0, 3.0, 2.0])
    assert QLearning(Corridor(), Corridor(), range(1), 1, 0).target(values, 2) == 3
    assert Sarsa(Corridor(), Corridor(), range(1), 1, 0).target(values, 2) == 2


def test_evolution_finds_a_better_network() -> None:
    learner = make("evolution", 0, Tiny())
    for _ in range(5):
        learner.step()
    assert learner.score() < 0.998


@pytest.mark.parametrize("name", ["ppo", "a3c"])
def test_policy_gradients_make_likely_what_did_well(name: str) -> None:
    learner = make(name, 0, Tiny())
    before = learner.tensors()
    assert learner.step()["over_rule"] > 0
    moved = learner.tensors()
    assert any((moved[part] != before[part]).any() for part in ("out_token", "out_job", "out_attention"))


@pytest.mark.parametrize("name", list(BUDGETS))
def test_a_run_that_was_interrupted_ends_as_one_that_was_not(name: str, tmp_path: Path) -> None:
    def run_to(steps: int, folder: str) -> dict[str, np.ndarray]:
        budget = Budget(steps=steps, check_every=1)
        return train(lambda: make(name, 3, Tiny()), budget, tmp_path / folder).tensors

    whole = run_to(2, "whole")
    run_to(1, "parts")
    parts = run_to(2, "parts")
    assert whole.keys() == parts.keys()
    for key, value in whole.items():
        assert (value == parts[key]).all()


def test_training_stops_when_nothing_gets_better(tmp_path: Path) -> None:
    budget = Budget(steps=50, check_every=1, patience=2, least=0.5)
    trained = train(lambda: make("q-learning", 0, Tiny()), budget, tmp_path)
    assert trained.converged
    assert trained.steps == 2
    assert list(tmp_path.glob("events.out.tfevents.*"))


def test_workloads_are_laid_over_each_other_for_a_load() -> None:
    layer = [replace(jobs(0)[0], name=str(i), submitted=60.0 * i) for i in range(160)]
    draws = np.random.default_rng(0)
    assert len(lay_over([layer, layer], 1.5, np.inf, draws)) == 240
    part = lay_over([layer], 0.5, 3600.0, draws)
    assert all(job.submitted <= 3600 for job in part)
    assert [job.submitted for job in part] == sorted(job.submitted for job in part)


def test_a_random_network_says_nothing_at_first() -> None:
    out = attend(np.ones((4, JOBS)), np.ones(CLUSTER_NUMBERS), random_weights(1))
    assert (out == 0).all()
