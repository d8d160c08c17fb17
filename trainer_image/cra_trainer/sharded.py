"""The steps of a model that is split over the ranks (`cra_trainer.shards`).

Gradients are reduced by `fully_shard`, which takes their mean over the ranks as DDP does: so the same weights
of the losses make them exact. It reduces no parameter that is not a part of the model's, so what the ranks
tell each other costs one small collective more per step. It also gathers parameters again and again, so all
ranks have equally many forward and backward passes in a step.

Ranks wait for each other in every block, and a step takes all of them equally long. What a rank computes for
itself is the time between those places: `OwnTime` marks each of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.autograd import Variable
from torch.utils._pytree import tree_leaves
from torch.utils.hooks import RemovableHandle

from cra_trainer.allocation.shares import Ints
from cra_trainer.elastic.group import Group
from cra_trainer.parallel import Reducer, Signals, Step, Stopwatch
from cra_trainer.precision import Scaling
from cra_trainer.probe import Probe, local
from cra_trainer.report import Column, StepReport

if TYPE_CHECKING:
    from cra_trainer.shards import Shards

_Mark = Callable[..., None]


class OwnTime:
    """Marks on a stopwatch where a rank begins and ends to compute by itself, in turns.

    `fully_shard` waits in hooks before and after the forward and the backward pass of a module, so each of
    those is put between two of ours.

    Args:
        modules: Those that were split.
    """

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        self._watch: Stopwatch | None = None
        self._running = False
        self._handles: list[RemovableHandle] = []
        for module in modules:
            self._handles += [
                module.register_forward_pre_hook(
                    self._before(self._pause, self._resume), prepend=True, with_kwargs=True
                ),
                module.register_forward_pre_hook(self._before(self._resume, self._pause), with_kwargs=True),
                module.register_forward_hook(self._after(self._pause, self._pause), prepend=True),
                module.register_forward_hook(self._after(self._resume, self._resume)),
            ]

    def remove(self) -> None:
        """Take the hooks away."""
        for handle in self._handles:
            handle.remove()

    def start(self, watch: Stopwatch) -> None:
        """A step begins."""
        self._watch, self._running = watch, False
        self._resume()

    def backward(self, loss: Tensor) -> None:
        """A backward pass is about to begin: after the last gradient, `fully_shard` waits for all."""
        loss.register_hook(lambda _: Variable._execution_engine.queue_callback(self._pause))  # type: ignore[no-untyped-call]

    def stop(self) -> None:
        """Nothing of the step is left to compute."""
        self._pause()
        self._watch = None

    def _pause(self, _: Any = None) -> None:
        if self._watch is not None and self._running:
            self._watch.mark()
            self._running = False

    def _resume(self, _: Any = None) -> None:
        if self._watch is not None and not self._running:
            self._watch.mark()
            self._running = True

    def _before(self, now: _Mark, backward: _Mark) -> Callable[[nn.Module, Any, Any], None]:
        """A hook before a module, which marks, and marks again when the gradients of the inputs are there."""

        def hook(_: nn.Module, inputs: Any, named: Any) -> None:
            now()
            self._at_gradients((inputs, named), backward)

        return hook

    def _after(self, now: _Mark, backward: _Mark) -> Callable[[nn.Module, Any, Any], None]:
        """A hook behind a module, which marks, and marks again when those of its outputs are there."""

        def hook(_: nn.Module, __: Any, outputs: Any) -> None:
            now()
            self._at_gradients(outputs, backward)

        return hook

    def _at_gradients(self, values: Any, mark: _Mark) -> None:
        if self._watch is not None and torch.is_grad_enabled():
            for value in tree_leaves(values):
                if isinstance(value, Tensor) and value.requires_grad:
                    value.register_hook(mark)  # type: ignore[no-untyped-call]


class ShardedReducer(Reducer):
    """Lets `fully_shard` reduce, for one group after another.

    Args:
        model: The user's model.
        device: Where this rank computes.
        signals: What else to tell the other ranks.
        scaling: As for `Reducer`.
        shards: The parts that this rank has.
    """

    def __init__(
        self,
        model: nn.Module,
        device: torch.device,
        signals: Signals,
        scaling: Scaling | None,
        shards: Shards,
    ) -> None:
        super().__init__(model, device, signals, scaling)
        self._shards = shards
        self._own: OwnTime | None = None

    def attach(self, group: Group) -> None:
        """Reduce over this group from now on; the model is split over its ranks already."""
        self._group = group
        self._last_rows = np.zeros(group.world_size, dtype=np.int64)
        self._own = OwnTime(self._shards.modules)
        # A rank sees its own gradients in parts only, so those of two steps are compared, as one rank does.
        self._probe = Probe(self._model.parameters(), rank=0, world_size=1)

    def detach(self) -> None:
        """Let go of the group, before its connections are taken down."""
        super().detach()
        if self._own is not None:
            self._own.remove()
        self._own, self.saving = None, False

    def begin(self, rows: Ints, *, measure: bool = False) -> None:
        """As `Reducer.begin`."""
        assert self._probe is not None
        assert self._own is not None
        self._probe.begin(np.array([rows.sum()]), measure=measure)
        watch = Stopwatch(self._cuda)
        self._step = Step(
            rows=rows,
            measured_rows=self._last_rows if self._cuda else rows,
            watch=watch,
            before=self._last,
        )
        self._own.start(watch)

    def _forward(self, *inputs: Any, **kwargs: Any) -> Any:
        if self._step is not None and torch.is_grad_enabled():
            self._step.forwarded = True
        with self._shards.guard():
            return self._model(*inputs, **kwargs)

    def _reduce(self, step: Step, loss: Tensor) -> Tensor | None:
        assert self._own is not None
        self._own.backward(loss)
        with self._shards.guard():
            loss.backward()  # type: ignore[no-untyped-call]
        if not step.last_piece:
            return None
        self._own.stop()
        if any(p.requires_grad and p.grad is None for p in self._model.parameters()):
            raise self._unreached()
        seconds = self._last_compute if self._cuda else self._times(step.watch)[0]
        table = self._row(step, seconds, self._signals.saving())
        with self._shards.guard():
            dist.all_reduce(table)
        # As the gradient of a table would be: the mean.
        return table.div_(len(table))

    def _gradients(self) -> list[Tensor]:
        return [local(gradient) for gradient in super()._gradients()]

    def _times(self, watch: Stopwatch) -> tuple[float, float]:
        own = sum(watch.between(i, i + 1) for i in range(0, watch.count - 1, 2))
        return own, watch.between(0, -1) - own

    def _read(self, step: Step) -> StepReport:
        report = super()._read(step)
        self.saving = bool(report.table[:, Column.SAVE].any())
        # Each rank has measured its part of the whole.
        report.table[:, Column.WHOLE] = np.linalg.norm(report.table[:, Column.WHOLE])
        return report
