"""Which worker that is slow for good gives its place to another pod, as `spec.scaling.stragglers` has it.

One at a time, and not soon after another: where a whole rack is slow, or the work is merely uneven, moving
pods about heals nothing and costs a pause and a start each. The leader stays, since without it the run ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from cra_operator.api import Stragglers
from cra_operator.view import PodView


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Who is to be replaced, if a node has room for another pod.

    Attributes:
        pod: The worker; None for nobody.
        why: What keeps stragglers where they are, if there are any that policy would replace.
        until: When that is over.
    """

    pod: PodView | None = None
    why: str = ""
    until: datetime | None = None


def choose(
    slow: Sequence[PodView],
    *,
    policy: Stragglers,
    last: datetime | None,
    cooldown: float,
    now: datetime,
) -> Choice:
    """Choose among the workers that are slow for good.

    Args:
        slow: They, by rank.
        policy: What to do about them.
        last: When one was last replaced in this run.
        cooldown: Seconds from then on in which no other is.
        now: The current time.
    """
    if policy == "Report" or not slow:
        return Choice()
    followers = [pod for pod in slow if pod.rank != 0]
    if not followers:
        return Choice(why="rank 0 leads the run, which would have to start again without it")
    over = None if last is None else last + timedelta(seconds=cooldown)
    if over is not None and now < over:
        return Choice(why=f"another worker was replaced, so none is before {over:%H:%M:%S} UTC", until=over)
    return Choice(pod=followers[0])
