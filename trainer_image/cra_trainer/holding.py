"""How the ranks of a group hold model and optimizer: each has all, or each a part (`cra_trainer.shards`)."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable

import torch
from torch import nn

from cra_trainer.checkpoint import State
from cra_trainer.elastic import transfer
from cra_trainer.elastic.group import Group
from cra_trainer.parallel import Reducer, Signals
from cra_trainer.precision import Scaling


class Holding:
    """Every rank holds all of it: so each may save it, hand it on, and compute with it alone.

    Attributes:
        split: Whether each holds a part, and is needed for all that.
    """

    split = False

    def reducer(
        self, model: nn.Module, device: torch.device, signals: Signals, scaling: Scaling | None
    ) -> Reducer:
        """What reduces the gradients."""
        return Reducer(model, device, signals, scaling)

    def enter(self, group: Group, live: Callable[[], State], restore: Callable[[State], None]) -> None:
        """Bring all ranks of a new group to the state of the training.

        Args:
            group: The group; its plan says who holds what.
            live: Gives this rank's state, its tensors not copied.
            restore: Takes a whole state over.
        """
        transfer.exchange(group, live, restore)

    def quit(self, *, complete: bool) -> None:
        """See to it that the state outlives the group; all of its ranks do so before they leave it.

        Args:
            complete: Whether they are all there.

        Raises:
            ShardsLost: A rank is gone that is needed for it.
        """

    def lend(self) -> None:
        """Take part in what rank 0 saves."""

    def guard(self) -> contextlib.AbstractContextManager[None]:
        """Say what the loss of a rank means to a collective in here."""
        return contextlib.nullcontext()

    def gathered(self) -> contextlib.AbstractContextManager[None]:
        """Every rank has all weights in here, and may compute alone."""
        return contextlib.nullcontext()


def make_holding(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    blocks: Iterable[nn.Module] | None,
    is_loss: Callable[[BaseException], bool],
) -> Holding:
    """Split over the ranks by these blocks, or not at all.

    Raises:
        ValueError: The model cannot be split so.
    """
    if blocks is None:
        return Holding()
    # NB: imported by those who need it, for that takes a while.
    from cra_trainer.shards import Shards

    return Shards(model, optimizer, blocks, is_loss)
