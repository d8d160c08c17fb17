"""Temporal-difference learning of action values: one rule for the trainers and for the operator.

    Q(s, a) <- Q(s, a) + rate * (r + gamma * Q'(s', a') - Q(s, a))

Off-policy, a' is the best action of the next state, whatever will be done there (Q-learning; Watkins and
Dayan, 1992). On-policy it is the one that is really taken (SARSA; Rummery and Niranjan, 1994). Q' is Q itself
or, in Double DQN (van Hasselt, Guez and Silver, 2016), a copy that follows slowly: the values that choose the
next action are not those that value it.
"""

from __future__ import annotations

from collections.abc import Callable

from cra_operator.controller.policy import Floats

UNTRIED = -100.0
"""What is added to the value of an action that training never tried in a state: far below all values, and
not so far that single precision would lose which of several is the better.
"""
DISCOUNT = 0.97
"""gamma, for ten minutes: what happens five hours later counts for less than half."""

Worth = Callable[[Floats, Floats, int], float]
"""What the next state is worth, Q'(s', a'): from its values, those of Q', both [A], and the action taken."""


def off_policy(values: Floats, slow: Floats, taken: int) -> float:
    """The best next action counts."""
    return float(slow[values.argmax()])


def on_policy(values: Floats, slow: Floats, taken: int) -> float:
    """The next action that is taken counts."""
    return float(slow[taken])


def step(value: float, reward: float, after: float, rate: float) -> float:
    """By how much a value moves.

    Args:
        value: Q(s, a).
        reward: r.
        after: Q'(s', a'); 0 where nothing follows.
        rate: The part of the difference.
    """
    return rate * (reward + DISCOUNT * after - value)
