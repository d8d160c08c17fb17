"""What a policy that chooses presets goes on learning while it decides about a real cluster.

The shipped values Q0 stay as they are; what is learned is a correction that is linear in features of the
state, f(s) [F] (for a table which row it is, for a network its last hidden layer), and relative to the value
of the state, V0(s) = max_a Q0(s, a):

    Q(s, a) = Q0(s, a) + |V0(s)| * clip(W_a f(s), -BOUND, BOUND)          |W| <= BOUND, elementwise

W moves by the rule of the trainers (`temporal`), divided by |f(s)|^2, so that Q(s, a) moves by what the rule
says. Trainers reward the time that jobs spend, the cluster the reward R of its jobs (`controller.reward`).
The two are made comparable by what is usual:

    d = log R - u(s)                                       clipped to [-1, 1]
    r = (Q0(s, a) - gamma * Q0(s', a')) + WEIGHT * (1 - gamma) * |V0(s)| * d

u(s) is a regression of log R on the state, over choices that the shipped values make too: most of what moves
R is the load. Those are what others are compared with, so their values are never corrected, and another
action is chosen only because it brought more. The first part of r is the reward that the shipped values
imply, which makes them a potential (Ng, Harada and Russell, ICML 1999): where rewards are as usual nothing
moves. (1 - gamma) |V0(s)| is what ten minutes cost, so a reward that is a tenth above the usual counts WEIGHT
tenths of that. Rate and weight are small because R is noisy: in the simulator d differs by a quarter from
choice to choice, whatever is chosen.

Choices that differ from the shipped ones, chance aside, are judged by the running mean of d. If that falls
below `WORST`, all that was learned is dropped.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from cra_operator.controller.policies.temporal import DISCOUNT, UNTRIED, Worth, step
from cra_operator.controller.policy import ClusterObservation, Floats

logger = logging.getLogger(__name__)

BOUND = 0.05
"""How far values move from the shipped ones, as a part of the value of the state."""
RATE = 0.02
WEIGHT = 3.0
"""How much more a reward counts than the ten minutes in which it was seen: what a choice does lasts."""
EXPLORE = 0.05
"""Part of the choices that are left to chance, among those that shipped values hold for within `BOUND` of
the best."""
WORST = -0.1
"""Where choices that were learned do so much worse than the shipped ones, those are gone back to."""
_JUDGED = 30
"""But not before so many of them were seen."""
_MEMORY = 50
"""About so many of them are in the running mean."""
_FIRST = 20
"""So many choices tell what is usual before anything is learned."""
_FORGET = 0.998
"""By so much a choice counts less after every other: after some sixty hours half."""
_RIDGE = 0.1
_LEAST = 0.01
"""Rewards below count as that, so that they have a logarithm."""
_TOLD = 0.5
"""The least part of looks, and of jobs in each, whose reward must be known."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Moment:
    """A state in which a choice is made.

    Attributes:
        shipped: Q0(s, a), [A].
        features: f(s), [F].
        state: Numbers that say what the cluster is like, [N].
    """

    shipped: Floats
    features: Floats
    state: Floats

    @property
    def best(self) -> int:
        """What the shipped values choose."""
        return int(self.shipped.argmax())

    @property
    def size(self) -> float:
        """|V0(s)|; 0 where training never was."""
        value = float(self.shipped.max())
        return abs(value) if value > UNTRIED / 2 else 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """What was chosen where, when, and whether by chance."""

    moment: Moment
    action: int
    chance: bool
    time: float


class Usual:
    """What reward is usual in a state: ridge regression of its logarithm on the state, forgetting slowly.

    Args:
        numbers: N.
    """

    def __init__(self, numbers: int) -> None:
        self.squares, self.products = np.zeros((numbers + 1, numbers + 1)), np.zeros(numbers + 1)

    @property
    def known(self) -> bool:
        """Whether enough was seen."""
        return bool(self.squares[0, 0] >= _FIRST)

    def log_reward(self, state: Floats) -> float:
        """What is usual, as a logarithm."""
        ridge = self.squares + _RIDGE * np.eye(len(self.products))
        return float(np.append(1.0, state) @ np.linalg.solve(ridge, self.products))

    def learn(self, state: Floats, log_reward: float) -> None:
        """One more."""
        x = np.append(1.0, state)
        self.squares = _FORGET * self.squares + np.outer(x, x)
        self.products = _FORGET * self.products + x * log_reward


class Online:
    """What one policy has learned since it was shipped.

    Args:
        policy: Its name.
        actions: A.
        features: F.
        numbers: N.
        worth: Of the next state.
        follow: How far Q' moves towards Q after every step; 1 for Q itself.
        draws: Chance.

    Attributes:
        updates: Choices that were learned from.
        returns: How often the shipped values were gone back to.
        standing: Running mean of d over the choices that differ from the shipped ones.
        differed: How many of them there were since the last return.
    """

    def __init__(
        self,
        *,
        policy: str,
        actions: int,
        features: int,
        numbers: int,
        worth: Worth,
        follow: float = 1.0,
        draws: np.random.Generator | None = None,
    ) -> None:
        self._policy, self._worth, self._follow = policy, worth, follow
        self._draws = draws or np.random.default_rng()
        self._weights = np.zeros((actions, features))
        self._slow = np.zeros((actions, features))
        self._usual = Usual(numbers)
        self.updates = self.returns = self.differed = 0
        self.standing = 0.0

    @property
    def distance(self) -> float:
        """The largest change of a weight, as a part of its bound."""
        return float(np.abs(self._weights).max()) / BOUND

    def values(self, moment: Moment) -> Floats:
        """Q(s, a), [A]."""
        return _corrected(moment, self._weights)

    def choose(self, moment: Moment, time: float) -> Choice:
        """The best action, or now and then another that is nearly as good by the shipped values."""
        near = np.flatnonzero(moment.shipped >= moment.shipped.max() - BOUND * moment.size)
        chance = len(near) > 1 and self._draws.random() < EXPLORE
        action = self._draws.choice(near) if chance else self.values(moment).argmax()
        return Choice(moment=moment, action=int(action), chance=bool(chance), time=time)

    def learn(self, made: Choice, reward: float, then: Choice) -> None:
        """Learn from a choice.

        Args:
            made: The choice.
            reward: R while it held.
            then: The choice that followed.
        """
        before, action = made.moment, made.action
        self.updates += 1
        told = math.log(max(reward, _LEAST))
        if action == before.best:
            self._usual.learn(before.state, told)
        elif self._usual.known and before.size:
            better = min(max(told - self._usual.log_reward(before.state), -1.0), 1.0)
            self._move(made, better, then)
            if not made.chance:
                self._judge(better)

    def _move(self, made: Choice, better: float, then: Choice) -> None:
        before, after, action = made.moment, then.moment, made.action
        implied = before.shipped[action] - DISCOUNT * self._worth(after.shipped, after.shipped, then.action)
        reward = implied + WEIGHT * (1.0 - DISCOUNT) * before.size * better
        worth = self._worth(self.values(after), _corrected(after, self._slow), then.action)
        change = step(self.values(before)[action], reward, worth, RATE) / before.size
        features = before.features
        moved = self._weights[action] + change * features / (features @ features)
        self._weights[action] = np.clip(moved, -BOUND, BOUND)
        self._slow += self._follow * (self._weights - self._slow)

    def _judge(self, better: float) -> None:
        self.differed += 1
        self.standing += (better - self.standing) / min(self.differed, _MEMORY)
        if self.differed >= _JUDGED and self.standing < WORST:
            logger.warning(
                "what policy %s learned online brings %.0f %% less than what was shipped: it is dropped",
                self._policy, 100 * (1 - math.exp(self.standing)),
            )  # fmt: skip
            self._weights[:], self._slow[:] = 0.0, 0.0
            self.differed, self.standing = 0, 0.0
            self.returns += 1

    def tensors(self) -> dict[str, Floats]:
        """All that it knows, as `restore` takes it."""
        return {
            "weights": self._weights.copy(),
            "slow": self._slow.copy(),
            "squares": self._usual.squares.copy(),
            "products": self._usual.products.copy(),
            "record": np.array([self.updates, self.returns, self.differed, self.standing]),
        }

    def restore(self, tensors: Mapping[str, Floats]) -> None:
        """Go on from tensors.

        Raises:
            ValueError: They are not of this policy, or no numbers within bounds.
        """
        own = self.tensors()
        if tensors.keys() != own.keys() or any(tensors[key].shape != own[key].shape for key in own):
            raise ValueError("its tensors are not those of this policy")
        if not all(np.isfinite(tensor).all() for tensor in tensors.values()):
            raise ValueError("its tensors hold values that are no numbers")
        if max(np.abs(tensors[key]).max() for key in ("weights", "slow")) > BOUND * (1 + 1e-6):
            raise ValueError(f"its weights are more than {BOUND:g} from those that are shipped")
        if min(tensors["record"][:3]) < 0:
            raise ValueError("its record counts less than nothing")
        self._weights, self._slow = tensors["weights"].copy(), tensors["slow"].copy()
        self._usual.squares, self._usual.products = tensors["squares"].copy(), tensors["products"].copy()
        updates, returns, differed, standing = tensors["record"].tolist()
        self.updates, self.returns, self.differed = int(updates), int(returns), int(differed)
        self.standing = standing


class Course:
    """One line of choices, each of which is learned from when the next is made.

    Args:
        online: What it learns into; other lines, for jobs of other priorities, may do so too.
        seconds: How long a choice holds.
    """

    def __init__(self, online: Online, seconds: float) -> None:
        self._online, self._seconds = online, seconds
        self._last: Choice | None = None
        self._rewards: list[float] = []
        self._looks = 0

    def look(self, seen: ClusterObservation) -> None:
        """What the jobs get out of the sizes that they have now."""
        self._looks += 1
        known = np.zeros(0) if seen.reward is None else seen.reward[~np.isnan(seen.reward)]
        if len(known) and len(known) >= _TOLD * len(seen):
            self._rewards.append(float(known.mean()))

    def choose(self, moment: Moment, time: float) -> int:
        """The next action; teaches what the last one brought."""
        choice, last = self._online.choose(moment, time), self._last
        if last is not None and self._counts(time - last.time):
            self._online.learn(last, float(np.mean(self._rewards)), choice)
        self._last, self._looks = choice, 0
        self._rewards.clear()
        return choice.action

    def _counts(self, seconds: float) -> bool:
        """Whether enough was seen, and nobody looked away for long."""
        told = len(self._rewards)
        return told > 0 and told >= _TOLD * self._looks and seconds < 2 * self._seconds


def _corrected(moment: Moment, weights: Floats) -> Floats:
    change = np.clip(weights @ moment.features, -BOUND, BOUND)
    change[moment.best] = 0.0
    found: Floats = moment.shipped + moment.size * change
    return found
