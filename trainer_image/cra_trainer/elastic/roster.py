"""Who trains together: the leader's book, without sockets or clocks.

Members of a group stand between two steps when they want or must go on in another group: because newcomers
are there, because one of them leaves, or because a collective failed. When all that are left of a group
stand, the next one is formed of them and of the newcomers whose whole cohort has arrived. So a group has an
exact size from its first moment, and many changes at once are one change.

How far a member's state has come is its *standing*: (step, epoch, reports in that epoch). After a failure
standings may differ by what some ranks completed and others did not; those that are furthest hand their state
to the rest, so nothing that was completed is done again.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

Standing = tuple[int, ...]
NOTHING: Standing = ()
"""The standing of a rank that holds no state yet."""


@dataclass(frozen=True, kw_only=True)
class Hello:
    """A rank that is ready to train.

    Attributes:
        uid: Names this process among all that ever were in the training.
        place: Its rank when everybody is there; ranks of a group are in this order.
        cohort: Number of the cohort that it starts with.
        joining: Ranks of that cohort: it is taken in together with them.
        standing: What it holds: only the leader holds something from the beginning.
    """

    uid: str
    place: int
    cohort: int
    joining: int
    standing: Standing = NOTHING


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A group to form: its number and its members by rank."""

    number: int
    seats: tuple[Hello, ...]

    @property
    def generation(self) -> int:
        """The newest cohort that takes part."""
        return max(seat.cohort for seat in self.seats)

    def rank(self, uid: str) -> int:
        """The rank of a member."""
        return next(rank for rank, seat in enumerate(self.seats) if seat.uid == uid)

    @property
    def sources(self) -> tuple[int, ...]:
        """Ranks that hold the furthest state."""
        best = max(seat.standing for seat in self.seats)
        return tuple(rank for rank, seat in enumerate(self.seats) if seat.standing == best)

    @property
    def receivers(self) -> tuple[int, ...]:
        """Ranks that need it."""
        sources = self.sources
        return tuple(rank for rank in range(len(self.seats)) if rank not in sources)

    def kept(self, before: Plan) -> tuple[int, ...]:
        """For each rank, its rank in an earlier group, or -1."""
        old = {seat.uid: rank for rank, seat in enumerate(before.seats)}
        return tuple(old.get(seat.uid, -1) for seat in self.seats)


class Roster:
    """The present group, those that wait to join it, and what each member is about.

    Attributes:
        number: Of the present group; 0 before the first.
    """

    def __init__(self) -> None:
        self.number = 0
        self._members: dict[str, Hello] = {}
        self._waiting: dict[str, Hello] = {}
        self._standing: set[str] = set()
        self._leaving: set[str] = set()
        self._done: set[str] = set()

    @property
    def members(self) -> tuple[str, ...]:
        """Members of the present group that are not gone."""
        return tuple(self._members)

    def arrive(self, hello: Hello) -> None:
        """A newcomer is ready."""
        self._waiting[hello.uid] = hello

    def stand(self, uid: str, standing: Standing) -> None:
        """A member waits for the next group."""
        self._members[uid] = replace(self._members[uid], standing=standing)
        self._standing.add(uid)
        self._done.discard(uid)

    def leave(self, uid: str) -> None:
        """A member has done its last step and asks to be let go."""
        self._leaving.add(uid)

    def finish(self, uid: str) -> None:
        """A member has come to the end of the training."""
        self._done.add(uid)

    def gone(self, uid: str) -> bool:
        """A process is no more, or left: whether the group lost somebody that it counted on."""
        self._waiting.pop(uid, None)
        member = self._members.pop(uid, None)
        expected = uid in self._leaving or uid in self._done
        for group in (self._standing, self._leaving, self._done):
            group.discard(uid)
        return member is not None and not expected

    @property
    def change_wanted(self) -> bool:
        """Whether a whole cohort waits to be taken in."""
        return bool(self._complete())

    def dismissed(self) -> tuple[str, ...]:
        """Those who may go: nobody needs them any more."""
        rest = set(self._members) - self._leaving
        if rest and rest == self._done:
            return tuple(self._members)
        return tuple(self._leaving) if rest == self._standing else ()

    def next_plan(self) -> Plan | None:
        """The next group, once everybody who is left of this one stands; it is then the present one."""
        rest = set(self._members) - self._leaving
        newcomers = self._complete()
        if (self._standing != rest or not rest) if self.number else not newcomers:
            return None
        seats = sorted(
            [*(self._members[uid] for uid in rest), *newcomers], key=lambda seat: (seat.place, seat.uid)
        )
        self.number += 1
        self._members = {seat.uid: seat for seat in seats}
        for seat in newcomers:
            del self._waiting[seat.uid]
        self._standing, self._leaving, self._done = set(), set(), set()
        return Plan(number=self.number, seats=tuple(seats))

    def _complete(self) -> list[Hello]:
        """Newcomers whose cohort is there as a whole."""
        count: dict[int, int] = {}
        for hello in self._waiting.values():
            count[hello.cohort] = count.get(hello.cohort, 0) + 1
        return [hello for hello in self._waiting.values() if count[hello.cohort] >= hello.joining]
