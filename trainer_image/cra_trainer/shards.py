"""A model and its optimizer, split over the ranks of one group after another by `fully_shard` (FSDP2).

What `fully_shard` has split belongs to one group. To go on in another, the ranks of the old one gather the
whole state on rank 0, in host memory; the model becomes what it was before, is split anew, and every rank
takes its parts of what rank 0 hands out, tensor by tensor. So those who stay, newcomers and whoever starts
from a checkpoint, of however many ranks, all come to their parts in one way.

Only a group that is complete can do so: a rank that is lost has taken its parts along, and all that is left
is the newest checkpoint.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.distributed import _composable_state
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from cra_trainer.checkpoint import State, snapshot, whole
from cra_trainer.elastic import transfer
from cra_trainer.elastic.group import Group, ShardsLost
from cra_trainer.holding import Holding
from cra_trainer.parallel import Reducer, Signals
from cra_trainer.precision import Scaling
from cra_trainer.sharded import ShardedReducer

IsLoss = Callable[[BaseException], bool]
Places = dict[tuple[Any, ...], DTensor]
"""Parameters, by what leads to their values in a state, and to what an optimizer keeps of them."""


class Shards(Holding):
    """The parts of one training.

    Args:
        model: The user's model, whole.
        optimizer: Its optimizer.
        blocks: Modules of the model that are split, and gathered for computing, each on its own.
        is_loss: Whether an error of a collective means that a rank is lost.

    Raises:
        ValueError: A block or a parameter of the optimizer is none of the model's, or the optimizer cannot
            do with parts.

    Attributes:
        modules: What was split: the blocks, and the model itself for the rest.
    """

    split = True

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        blocks: Iterable[nn.Module],
        is_loss: IsLoss,
    ) -> None:
        self._model, self._optimizer, self._is_loss = model, optimizer, is_loss
        chosen = {*blocks, model}
        # What is inside comes before what it is in.
        self.modules = [module for module in reversed(list(model.modules())) if module in chosen]
        if len(self.modules) < len(chosen):
            raise ValueError(
                "fully_shard: expected blocks of the model, got a module that is none of its own"
            )
        own = set(model.parameters())
        if any(p not in own for group in optimizer.param_groups for p in group["params"]):
            raise ValueError("fully_shard: the optimizer has parameters that are none of the model's")
        if isinstance(optimizer, torch.optim.Adafactor):
            raise ValueError("fully_shard: torch's Adafactor needs whole parameters; use adamw")
        self._group: Group | None = None
        self._whole: State | None = None
        self._plain: list[tuple[nn.Module, type[nn.Module], set[str]]] = []

    def reducer(
        self, model: nn.Module, device: torch.device, signals: Signals, scaling: Scaling | None
    ) -> Reducer:
        return ShardedReducer(model, device, signals, scaling, self)

    def enter(self, group: Group, live: Callable[[], State], restore: Callable[[State], None]) -> None:
        """Split the model over a new group, and bring all of its ranks to the state that rank 0 holds.

        Raises:
            ShardsLost: Rank 0 does not hold it any more.
        """
        if group.rank == 0 and self._whole is None:
            if self._plain:
                raise ShardsLost(_LOST)
            self._whole = self._live()
        place = functools.partial(_place, self._split(group))
        held = self._whole or {}
        given = transfer.spread(group, lambda: {**live(), **held}, place)
        if group.rank in group.plan.receivers:
            restore(given)
        else:
            self._model.load_state_dict(given["model"])
            self._optimizer.load_state_dict(given["optimizer"])
        # Whoever comes to know that all have theirs may let go of the whole.
        group.gather([0.0])
        self._whole = None

    def quit(self, *, complete: bool) -> None:
        """Gather the state on rank 0."""
        assert self._group is not None
        if not complete:
            raise ShardsLost(_LOST)
        if self._group.rank:
            self.lend()
            return
        with self.guard():
            self._whole = snapshot(self._live())

    def lend(self) -> None:
        """Take part in what rank 0 gathers.

        Raises:
            ShardsLost: A rank is gone.
        """
        with self.guard():
            _gather(self._live())

    @contextlib.contextmanager
    def guard(self) -> Iterator[None]:
        """Raise `ShardsLost` where a collective in here lost a rank."""
        try:
            yield
        except RuntimeError as error:
            if not self._is_loss(error):
                raise
            raise ShardsLost(_LOST) from error

    @contextlib.contextmanager
    def gathered(self) -> Iterator[None]:
        """All weights are gathered on every rank in here."""
        modules = [cast(FSDPModule, module) for module in self.modules]
        with self.guard():
            for module in modules:
                module.unshard()
        modules[-1].set_reshard_after_forward(False)
        try:
            yield
        finally:
            for module in modules:
                # The root's are needed again at once, as torch has it too.
                module.set_reshard_after_forward(module is not modules[-1], recurse=False)
                module.reshard()

    def _live(self) -> State:
        return {"model": self._model.state_dict(), "optimizer": self._optimizer.state_dict()}

    def _split(self, group: Group) -> Places:
        """Split all parameters over a group's ranks; what they hold comes later."""
        mesh = init_device_mesh(group.device.type, (group.world_size,))
        names = {parameter: name for name, parameter in self._model.named_parameters()}
        if self._plain:
            self._join()
        self._plain = [(module, type(module), set(vars(module))) for module in self._model.modules()]
        for module in self.modules:
            fully_shard(module, mesh=mesh)
        self._plain = [(module, kind, set(vars(module)) - before) for module, kind, before in self._plain]
        now = dict(self._model.named_parameters())
        for one in self._optimizer.param_groups:
            one["params"] = [now[names[parameter]] for parameter in one["params"]]
        self._optimizer.state.clear()
        self._group = group
        named = self._model.named_parameters(remove_duplicate=False)
        stepped = (p for one in self._optimizer.param_groups for p in one["params"])
        places = {("model", name): p for name, p in named}
        return cast(Places, places | {("optimizer", "state", i): p for i, p in enumerate(stepped)})

    def _join(self) -> None:
        """Undo `fully_shard`, for which torch has no call; parameters get their size back, but no values."""
        for module in self.modules:
            cast(FSDPModule, module).reshard()
        plain: dict[nn.Parameter, nn.Parameter] = {}
        for module, kind, added in self._plain:
            for name, part in list(module.named_parameters(recurse=False, remove_duplicate=False)):
                if part not in plain:
                    empty = torch.empty(part.shape, dtype=part.dtype)
                    plain[part] = nn.Parameter(empty, requires_grad=part.requires_grad)
                module._parameters[name] = plain[part]
            for name in added & vars(module).keys():
                del vars(module)[name]
            hooks = [value for name, value in vars(module).items() if "_hooks" in name]
            for key in {key for registry in hooks for key, hook in registry.items() if _is_torchs(hook)}:
                for registry in hooks:
                    registry.pop(key, None)
            module.__class__ = kind
            _composable_state._module_state_mapping.pop(module, None)


def _place(places: Places, path: tuple[Any, ...], tensor: Tensor) -> Tensor:
    """What a rank keeps of a tensor of the whole state: its part of a parameter, or of an optimizer's tensor
    of a parameter's shape, and anything else as it is.
    """
    part = places.get(path[:3])
    if part is None or part.shape != tensor.shape:
        return tensor.cpu()
    return distribute_tensor(tensor, part.device_mesh, part.placements, src_data_rank=None)


_LOST = "a rank is gone, and with it its part of the model: the job goes on from its newest checkpoint"


def _gather(value: Any) -> None:
    """Take part in the gathering of every split tensor, in their order."""
    if isinstance(value, Tensor):
        whole(value)
    elif isinstance(value, dict):
        for item in value.values():
            _gather(item)
    elif isinstance(value, list | tuple):
        for item in value:
            _gather(item)


def _is_torchs(hook: Any) -> bool:
    return (getattr(hook, "__module__", None) or "").startswith("torch.distributed.fsdp.")
