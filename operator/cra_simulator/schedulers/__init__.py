"""The schedulers that can be compared: the operator's own policies and the published ones, one file each."""

from collections.abc import Callable
from dataclasses import dataclass

from cra_operator.controller.policies import POLICIES
from cra_operator.controller.policies.goodput import UNTUNED, Goodput
from cra_operator.controller.policy import Policy
from cra_simulator.errors import DataError
from cra_simulator.schedulers.afs import Afs
from cra_simulator.schedulers.fifo import Fifo
from cra_simulator.schedulers.gavel import Gavel
from cra_simulator.schedulers.optimus import Optimus
from cra_simulator.schedulers.pollux import Pollux
from cra_simulator.schedulers.sia import Sia
from cra_simulator.schedulers.srtf import Srtf
from cra_simulator.schedulers.tiresias import Tiresias


@dataclass(frozen=True, kw_only=True)
class Scheduler:
    """How a scheduler is to be compared.

    Attributes:
        make: Makes a fresh policy.
        rigid: Whether jobs keep one size, so that the growth limit, which is about unknown sizes, is not for
            it.
        owners_batch: Whether jobs keep the batch size that their owner chose.
        knows_remaining: Whether it uses how much work is left.
        mixed: Whether it can choose between types of GPU.
        learned: Whether it was trained.
    """

    make: Callable[[], Policy]
    rigid: bool = False
    owners_batch: bool = False
    knows_remaining: bool = False
    mixed: bool = False
    learned: bool = False


LEARNED = ("q-learning", "sarsa", "double-dqn", "ppo", "attention")
"""The operator's policies that were trained, the default last."""

SCHEDULERS = {
    "fifo": Scheduler(make=Fifo, rigid=True, owners_batch=True, mixed=True),
    "static": Scheduler(make=POLICIES["static"], rigid=True, owners_batch=True, mixed=True),
    "uniform": Scheduler(make=POLICIES["uniform"], rigid=True, owners_batch=True, mixed=True),
    "random": Scheduler(make=POLICIES["random"], rigid=True, owners_batch=True, mixed=True),
    "round-robin": Scheduler(make=POLICIES["round-robin"], rigid=True, owners_batch=True, mixed=True),
    "priority": Scheduler(make=POLICIES["priority"], rigid=True, owners_batch=True, mixed=True),
    "srtf": Scheduler(make=Srtf, rigid=True, owners_batch=True, mixed=True, knows_remaining=True),
    "tiresias": Scheduler(make=Tiresias, rigid=True, owners_batch=True, mixed=True),
    "optimus": Scheduler(make=Optimus, owners_batch=True, knows_remaining=True),
    "gavel": Scheduler(make=Gavel, rigid=True, owners_batch=True, mixed=True),
    "afs": Scheduler(make=Afs, knows_remaining=True),
    "pollux": Scheduler(make=Pollux),
    "sia": Scheduler(make=Sia, mixed=True),
    "goodput-untuned": Scheduler(make=lambda: Goodput(UNTUNED), knows_remaining=True, mixed=True),
    "goodput": Scheduler(make=Goodput, knows_remaining=True, mixed=True),
}
SCHEDULERS |= {
    name: Scheduler(make=POLICIES[name], knows_remaining=True, mixed=True, learned=True) for name in LEARNED
}
"""By the name that they have on the command line and in tables."""


def scheduler_of(name: str) -> Scheduler:
    """The scheduler of a name.

    Raises:
        DataError: There is none.
    """
    if name not in SCHEDULERS:
        raise DataError(f"there is no policy {name!r}; there are {', '.join(SCHEDULERS)}")
    return SCHEDULERS[name]
