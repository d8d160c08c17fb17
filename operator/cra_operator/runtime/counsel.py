"""Asking policies, which are code that was trained or is complicated: never for longer than they deserve.

Each policy has one instance for each priority it decides about, since it may remember whom it saw. It
answers in a thread of its own. One that does not answer in time is left behind, with its thread, until it
does; others decide meanwhile.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from cra_operator.controller.policy import ClusterObservation, Decision, Policy
from cra_operator.controller.proposing import PolicyError

_LIMIT_SECONDS = 5.0


class Counsel:
    """The policies of one operator.

    Args:
        make: Makes a fresh policy by its name.
        limit: Seconds that an answer may take.
    """

    def __init__(self, make: Callable[[str], Policy], *, limit: float = _LIMIT_SECONDS) -> None:
        self._make = make
        self._limit = limit
        self._policies: dict[tuple[str, int], Policy] = {}
        self._late: dict[tuple[str, int], _Question] = {}

    def __call__(self, name: str, priority: int, seen: ClusterObservation) -> Decision:
        """The policy's answer.

        Raises:
            PolicyError: There is none in time.
            Exception: Whatever the policy raises.
        """
        who = name, priority
        late = self._late.get(who)
        if late is not None and late.is_alive():
            raise PolicyError("it has still not answered an earlier question")
        self._late.pop(who, None)
        if who not in self._policies:
            self._policies[who] = self._make(name)
        question = _Question(self._policies[who], seen)
        question.start()
        question.join(self._limit)
        if question.is_alive():
            # What it remembers is not to be trusted any more.
            del self._policies[who]
            self._late[who] = question
            raise PolicyError(f"it did not answer within {self._limit:g} s")
        if question.error is not None:
            raise question.error
        assert question.answer is not None
        return question.answer


class _Question(threading.Thread):
    """One question to one policy. NB: a daemon, so that a policy that hangs keeps no operator alive."""

    def __init__(self, policy: Policy, seen: ClusterObservation) -> None:
        super().__init__(name=f"policy-{type(policy).__name__}", daemon=True)
        self._policy = policy
        self._seen = seen
        self.answer: Decision | None = None
        self.error: Exception | None = None

    def run(self) -> None:
        try:
            self.answer = self._policy.decide(self._seen)
        except Exception as error:
            self.error = error
