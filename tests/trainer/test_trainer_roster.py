"""The leader's book, in any order of arrivals, steps, departures and deaths."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from cra_trainer.elastic.coordinator import hangs
from cra_trainer.elastic.roster import Hello, Plan, Roster


def hello(name: str, place: int, cohort: int = 1, joining: int = 1) -> Hello:
    return Hello(uid=name, place=place, cohort=cohort, joining=joining, standing=() if place else (0, 0, 0))


def formed(*names: str) -> Roster:
    """A group of these, in this order."""
    roster = Roster()
    for place, name in enumerate(names):
        roster.arrive(hello(name, place, joining=len(names)))
    assert roster.next_plan() is not None
    return roster


def names(plan: Plan | None) -> list[str]:
    assert plan is not None
    return [seat.uid for seat in plan.seats]


def test_the_first_group_waits_for_all_its_founders() -> None:
    roster = Roster()
    roster.arrive(hello("b", 1, joining=2))
    assert roster.next_plan() is None
    roster.arrive(hello("a", 0, joining=2))
    assert names(roster.next_plan()) == ["a", "b"]


def test_several_newcomers_and_a_leaver_make_one_change() -> None:
    roster = formed("a", "b", "c")
    roster.arrive(hello("e", 4, cohort=2, joining=2))
    assert not roster.change_wanted
    roster.arrive(hello("d", 3, cohort=2, joining=2))
    assert roster.change_wanted
    for member in ("a", "b"):
        roster.stand(member, (7, 0, 0))
    assert roster.next_plan() is None
    assert roster.dismissed() == ()
    roster.leave("c")
    assert roster.dismissed() == ("c",)
    plan = roster.next_plan()
    assert names(plan) == ["a", "b", "d", "e"]
    assert plan is not None
    assert (plan.sources, plan.receivers) == ((0, 1), (2, 3))


def test_those_who_completed_more_serve_the_rest() -> None:
    roster = formed("a", "b", "c")
    assert roster.gone("b")
    roster.stand("a", (7, 0, 0))
    roster.stand("c", (8, 0, 0))
    plan = roster.next_plan()
    assert plan is not None
    assert (names(plan), plan.sources, plan.receivers) == (["a", "c"], (1,), (0,))


def test_who_has_finished_stays_while_somebody_needs_its_state() -> None:
    roster = formed("a", "b")
    roster.finish("a")
    roster.stand("b", (7, 0, 0))
    assert roster.dismissed() == ()
    assert roster.next_plan() is None
    roster.stand("a", (8, 0, 0))
    assert names(roster.next_plan()) == ["a", "b"]
    for member in ("a", "b"):
        roster.finish(member)
    assert set(roster.dismissed()) == {"a", "b"}


def test_a_rank_hangs_when_it_computes_far_longer_than_ever() -> None:
    assert not hangs(300, 0)  # The first step may compile.
    assert hangs(601, 0)
    assert not hangs(59, 0.01)
    assert hangs(61, 0.01)
    assert not hangs(190, 10)
    assert hangs(201, 10)


class AnyOrder(RuleBasedStateMachine):
    """Members know only what they have done themselves; the leader never dies."""

    @initialize(founders=st.integers(1, 3))
    def begin(self, founders: int) -> None:
        self.roster = Roster()
        self.cohort, self.step, self.plans = 1, 0, 0
        self.state: dict[str, str] = {}
        self.cohorts: dict[str, tuple[int, int]] = {}
        for place in range(founders):
            self._arrive(f"founder{place}", place, founders)
        self._look()

    def _arrive(self, name: str, place: int, joining: int) -> None:
        self.roster.arrive(hello(name, place, self.cohort, joining))
        self.state[name], self.cohorts[name] = "waits", (self.cohort, joining)

    def _look(self) -> None:
        """What the coordinator does after every message."""
        dismissed = self.roster.dismissed()
        for name in dismissed:
            assert self.state[name] in ("leaves", "done")
        relied_on = [n for n, what in self.state.items() if what in ("trains", "stands")]
        if any(self.state[name] == "done" for name in dismissed):
            assert not relied_on
        plan = self.roster.next_plan()
        if plan is None:
            return
        self.plans += 1
        assert plan.number == self.plans
        assert "founder0" in names(plan)
        assert plan.rank("founder0") == 0
        # Nobody is taken in but by its own wish, and a cohort only as a whole.
        for name in names(plan):
            assert self.state[name] in ("stands", "waits")
            if self.state[name] == "waits":
                number, joining = self.cohorts[name]
                assert sum(self.cohorts[n][0] == number for n in names(plan)) == joining
        assert not [name for name, what in self.state.items() if what in ("trains", "done")]
        for name, what in list(self.state.items()):
            if name in names(plan):
                self.state[name] = "trains"
            elif what == "leaves":
                del self.state[name]

    @rule(count=st.integers(1, 2), whole=st.booleans())
    def newcomers_arrive(self, count: int, whole: bool) -> None:
        self.cohort += 1
        for number in range(count):
            self._arrive(f"{self.cohort}-{number}", 1 + number, count + (not whole))
            self._look()

    @rule(data=st.data(), what=st.sampled_from(["stands", "leaves", "done"]), ahead=st.integers(0, 1))
    def a_member_comes_to_the_end_of_a_step(self, data: st.DataObject, what: str, ahead: int) -> None:
        training = sorted(name for name, is_ in self.state.items() if is_ == "trains")
        if not training:
            return
        name = data.draw(st.sampled_from(training))
        if name == "founder0" and what == "leaves":
            return
        self.state[name] = what
        if what == "stands":
            self.roster.stand(name, (self.step + ahead, 0, 0))
        elif what == "leaves":
            self.roster.leave(name)
        else:
            self.roster.finish(name)
        self._look()

    @rule()
    def who_has_finished_hears_of_a_broken_group(self) -> None:
        if "stands" in self.state.values():
            for name in [n for n, what in self.state.items() if what == "done"]:
                self.state[name] = "stands"
                self.roster.stand(name, (self.step, 0, 0))
                self._look()

    @rule(data=st.data())
    def somebody_dies(self, data: st.DataObject) -> None:
        mortal = sorted(self.state.keys() - {"founder0"})
        if not mortal:
            return
        name = data.draw(st.sampled_from(mortal))
        missed = self.roster.gone(name)
        assert missed == (self.state.pop(name) in ("trains", "stands"))
        del self.cohorts[name]
        self._look()

    @invariant()
    def nobody_waits_for_the_dead(self) -> None:
        """When all that is left of a group stands, or leaves, the next one is there."""
        if not hasattr(self, "roster"):
            return
        members = [what for what in self.state.values() if what != "waits"]
        assert not ("stands" in members and set(members) <= {"stands", "leaves"})


TestAnyOrder = AnyOrder.TestCase
