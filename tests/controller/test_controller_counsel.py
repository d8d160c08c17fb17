"""Policies are asked in threads of their own: what they do wrong stays theirs."""

import threading

import numpy as np
import pytest

from cra_operator.controller.policies import POLICIES, make
from cra_operator.controller.policy import ClusterObservation, Decision
from cra_operator.controller.proposing import PolicyError, check
from cra_operator.runtime.counsel import Counsel
from tests.controller.deciding_world import a_job, observe, waiting

SEEN = observe([a_job("a", 2)], 8)


class Slow:
    """Answers when it is released."""

    def __init__(self) -> None:
        self.release = threading.Event()

    def decide(self, seen: ClusterObservation) -> Decision:
        self.release.wait(30)
        return Decision(choice=np.ones(len(seen), dtype=np.int64))


def test_a_policy_that_takes_too_long_is_left_behind_until_it_answers() -> None:
    made: list[Slow] = []

    def make_slow(name: str) -> Slow:
        made.append(Slow())
        return made[-1]

    counsel = Counsel(make_slow, limit=0.05)
    with pytest.raises(PolicyError, match=r"did not answer within 0\.05 s"):
        counsel("slow", 0, SEEN)
    with pytest.raises(PolicyError, match="still not answered"):
        counsel("slow", 0, SEEN)
    late = counsel._late["slow", 0]
    made[0].release.set()
    late.join(30)
    made_before = len(made)
    with pytest.raises(PolicyError, match="did not answer"):
        counsel("slow", 0, SEEN)
    assert len(made) == made_before + 1, "the late one's memory is not trusted"
    made[-1].release.set()


def test_what_a_policy_raises_reaches_the_one_who_asked() -> None:
    class Broken:
        def decide(self, seen: ClusterObservation) -> Decision:
            raise ZeroDivisionError("nobody there")

    with pytest.raises(ZeroDivisionError, match="nobody there"):
        Counsel(lambda name: Broken())("broken", 0, SEEN)


def test_each_priority_has_an_instance_that_remembers_only_its_jobs() -> None:
    made: list[str] = []

    class Remembers:
        def __init__(self) -> None:
            self.times = 0

        def decide(self, seen: ClusterObservation) -> Decision:
            self.times += 1
            return Decision(choice=np.full(len(seen), self.times))

    def make_one(name: str) -> Remembers:
        made.append(name)
        return Remembers()

    counsel = Counsel(make_one)
    answers = [counsel("p", priority, SEEN).choice.tolist() for priority in (0, 0, 5)]
    assert answers == [[1], [2], [1]]
    assert made == ["p", "p"]


@pytest.mark.parametrize("name", POLICIES)
def test_every_policy_gives_answers_that_can_be_acted_on(name: str) -> None:
    counsel = Counsel(make, limit=60)
    jobs = [a_job("a", 2), a_job("b", 4), waiting("c"), waiting("d", 3)]
    for capacity in (16, 8, 6):
        seen = observe(jobs, capacity)
        check(counsel(name, 0, seen), seen)
