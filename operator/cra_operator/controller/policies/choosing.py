"""One preset of the rule for all jobs, chosen anew every ten minutes by what the cluster is like.

The common part of the policies that learn values of states and actions (`q_learning`, `sarsa`,
`double_dqn`): the actions are presets of `goodput`, the state is that of the whole cluster, as bins for
tables and as numbers for networks. Ten minutes are long enough for a choice to have an effect, and short
beside a job. Values are read as they are shipped, or with what was learned since (`online`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from cra_operator.controller.policies.goodput import MIXED, Goodput, Preset, single_gpu_seconds
from cra_operator.controller.policies.online import Course, Moment, Online
from cra_operator.controller.policies.tokens import CLUSTER, cluster_tokens, speed_profile
from cra_operator.controller.policy import ClusterObservation, Decision, Floats

SECONDS = 600.0
"""How long a choice holds."""
ACTIONS: tuple[Preset, ...] = tuple(
    Preset(favour=favour, concavity=concavity, damping=damping)
    for favour in (0.25, 0.4, 0.55)
    for concavity in (0.75, 1.0)
    for damping in (0.5, 1.5)
)
"""What can be chosen."""
LOAD_EDGES = (-1.0, -0.3, 0.2, 0.7, 1.2, 1.8, 2.5)
BACKLOG_EDGES = (-1.0, 0.0, 0.7)
STATES = (len(LOAD_EDGES) + 1) * (len(BACKLOG_EDGES) + 1)
"""Of the table: bins of the load times bins of the backlog (`tokens.CLUSTER_FEATURES`)."""
NUMBERS = CLUSTER
"""How many numbers are the state of a network."""


def table_row(state: Floats) -> int:
    """The bin of a state, below `STATES`."""
    load = int(np.searchsorted(LOAD_EDGES, state[0]))
    return load * (len(BACKLOG_EDGES) + 1) + int(np.searchsorted(BACKLOG_EDGES, state[1]))


def state_of(seen: ClusterObservation) -> Floats:
    """What the cluster is like, [`NUMBERS`]."""
    gpus = seen.sizes.gpus
    alone, _ = single_gpu_seconds(seen.rate, gpus, seen.remaining, seen.attained)
    held, limit = gpus[seen.current].astype(float), seen.limit.astype(float)
    return cluster_tokens(alone, speed_profile(seen.rate, gpus), held, limit, float(seen.capacity.sum()))


class Choosing:
    """A rule whose preset is chosen: the action of the largest value.

    Args:
        judge: From a state, [`NUMBERS`], to the values of actions, [A], and the features in which they may be
            corrected, [F].
        online: What is learned meanwhile; None leaves values as they are.

    Attributes:
        rule: The rule, with the preset that holds now.
    """

    def __init__(
        self, judge: Callable[[Floats], tuple[Floats, Floats]], online: Online | None = None
    ) -> None:
        self._judge = judge
        self._course = Course(online, SECONDS) if online is not None else None
        self.rule = Goodput()
        self._until = -np.inf

    def decide(self, seen: ClusterObservation) -> Decision:
        """See `Policy.decide`."""
        if self._course is not None:
            self._course.look(seen)
        if seen.time >= self._until and len(seen):
            preset = ACTIONS[self._choose(seen)]
            # On several types of GPU, what a move loses counts whatever is chosen.
            self.rule.preset = replace(preset, lost=MIXED.lost) if len(seen.capacity) > 1 else preset
            self._until = seen.time + SECONDS
        return self.rule.decide(seen)

    def _choose(self, seen: ClusterObservation) -> int:
        state = state_of(seen)
        values, features = self._judge(state)
        if self._course is None:
            return int(values.argmax())
        return self._course.choose(Moment(shipped=values, features=features, state=state), seen.time)


def read_table(table: Floats) -> Callable[[Floats], tuple[Floats, Floats]]:
    """How values are read off a table, [S, A]: the feature is which row it is."""
    rows = np.eye(STATES)

    def judge(state: Floats) -> tuple[Floats, Floats]:
        row = table_row(state)
        return table[row], rows[row]

    return judge
