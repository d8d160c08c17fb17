"""The gradient reduction of a step, and the few numbers that ride on it.

DDP reduces gradients bucket by bucket while the backward pass goes on, and takes their mean over the ranks. A
rank that has b_i of the B rows weighs its loss with n·b_i/B, n being the number of ranks, so that mean is the
exact one over samples, however unequal the parts are.

What the ranks have to tell each other rides along: DDP is given one parameter more than the model has, whose
gradient is a small table. Each rank writes into its own row only, so the reduction hands every rank the whole
table, without a collective and without a copy of its own. (Next to a model without a parameter in float32 it
is a bucket by itself.) Autograd computes first what the forward pass did last, and the table is put before
all else: so its gradient comes last of all, and can carry the compute time of this very step.

On a GPU nothing here waits for the device: times are differences of events, and the table is read one step
later, when it has long been copied to the host. Every rank does so alike, so decisions that follow from the
table still fall in the same step everywhere.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from cra_trainer.allocation.shares import Ints
from cra_trainer.elastic.group import Group
from cra_trainer.precision import Scaling
from cra_trainer.probe import Probe
from cra_trainer.report import Column, Last, StepReport


class Stopwatch:
    """Compute and communication time of a step: marks on the host's clock, or events on the GPU's stream."""

    def __init__(self, cuda: bool) -> None:
        self._cuda = cuda
        self._marks: list[float | torch.cuda.Event] = []

    def mark(self) -> None:
        """Note this moment."""
        if not self._cuda:
            self._marks.append(time.perf_counter())
            return
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        self._marks.append(event)

    @property
    def count(self) -> int:
        """Moments noted."""
        return len(self._marks)

    def between(self, first: int, second: int) -> float:
        """Seconds from one mark to another; waits for the GPU to have passed the second."""
        a, b = self._marks[first], self._marks[second]
        if isinstance(a, float) and isinstance(b, float):
            return b - a
        assert isinstance(a, torch.cuda.Event)
        assert isinstance(b, torch.cuda.Event)
        b.synchronize()
        return float(a.elapsed_time(b)) / 1000


@dataclass(kw_only=True)
class Step:
    """A step under way."""

    rows: Ints
    measured_rows: Ints
    watch: Stopwatch
    before: Last
    roots: tuple[Tensor, ...] = ()
    loss: Tensor | None = None
    count: float | None = None
    table: Tensor | None = None
    forwarded: bool = False
    last_piece: bool = False


class Replica(nn.Module):
    """The model as the script calls it: DDP inside a step, and nothing but itself outside.

    Ranks may evaluate unequal numbers of batches, and one rank alone may; nothing is synchronised there. The
    DDP behind it is another one after every change of the group.
    """

    def __init__(self, module: nn.Module, run: Callable[..., Any]) -> None:
        super().__init__()
        self.module = module
        self._run = run

    def forward(self, *inputs: Any, **kwargs: Any) -> Any:
        return self._run(*inputs, **kwargs)


class _WithTable(nn.Module):
    """What DDP wraps: the model, and before it the table, so that DDP takes it for the last from its first
    step on.
    """

    def __init__(self, model: nn.Module, table: nn.Parameter) -> None:
        super().__init__()
        self.table, self.model = table, model

    def forward(self, *inputs: Any, **kwargs: Any) -> Any:
        return self.model(*inputs, **kwargs)


@dataclass(frozen=True, kw_only=True)
class Signals:
    """What a rank adds to the table of a step, asked for when the table is made.

    Attributes:
        reducing: Told that the step's own part is over.
        leaving: Whether it was asked to leave.
        change: Whether newcomers wait to be taken in.
        digest: Digest of its pending plan.
        room: Part of its memory that it has left.
        saving: Whether to save after this step; asked where all ranks have a part of what is saved.
        is_loss: Whether an error of a collective means that the group is broken, and not the script.
    """

    reducing: Callable[[], None]
    leaving: Callable[[], bool]
    change: Callable[[], bool]
    digest: Callable[[], int]
    room: Callable[[], float]
    saving: Callable[[], bool]
    is_loss: Callable[[BaseException], bool]


class Reducer:
    """Wraps a model in DDP with the reduction described above, for one group after another.

    Args:
        model: The user's model, on the device.
        device: Where this rank computes.
        signals: What else to tell the other ranks.
        scaling: Scales the loss up, and the gradients down again once they are reduced.

    Attributes:
        replica: The model for the script to call.
        failed: Whether a collective of this step failed: the step counts for nothing.
        saving: Whether the ranks are to save together.
    """

    def __init__(
        self, model: nn.Module, device: torch.device, signals: Signals, scaling: Scaling | None = None
    ) -> None:
        self._model, self._signals, self._scaling = model, signals, scaling
        self._group: Group | None = None
        self._ddp: DistributedDataParallel | None = None
        self._cuda = device.type == "cuda"
        self._table: nn.Parameter | None = None
        self._step: Step | None = None
        # On the GPU the table of a step is read when the next one is done.
        self._unread: deque[Step] = deque()
        self._last_compute = 0.0
        self._last_rows: Ints = np.zeros(0, dtype=np.int64)
        self._last = Last()
        self._ended: float | None = None
        self._probe: Probe | None = None
        self.failed = self.saving = False
        self.replica = Replica(model, self._forward)

    def attach(self, group: Group) -> None:
        """Reduce over this group from now on; its ranks hold the same state already."""
        self._group = group
        self._last_rows = np.zeros(group.world_size, dtype=np.int64)
        ids = [group.device.index] if self._cuda else None
        self._table = nn.Parameter(torch.zeros(group.world_size, len(Column), device=group.device))
        self._table.register_hook(self._tell)  # type: ignore[no-untyped-call]
        wrapped = _WithTable(self._model, self._table)
        self._ddp = DistributedDataParallel(wrapped, device_ids=ids, init_sync=False)
        self._probe = Probe(self._model.parameters(), rank=group.rank, world_size=group.world_size)

    def detach(self) -> None:
        """Let go of the group, before its connections are taken down."""
        self._ddp = self._table = self._step = self._probe = None
        self._unread.clear()
        self._last = Last()
        self.rest()
        self.failed = False

    def rest(self) -> None:
        """Something other than steps comes now, and belongs to the duration of none."""
        self._ended = None

    def begin(self, rows: Ints, *, measure: bool = False) -> None:
        """A step starts: its batch, of which rank i has rows[i], is about to be loaded.

        Args:
            rows: Rows of each rank.
            measure: Whether its gradients are to be measured; the same on every rank.
        """
        assert self._probe is not None
        assert self._table is not None
        self._probe.begin(rows, measure=measure)
        self._table.grad = None
        self._step = Step(
            rows=rows,
            measured_rows=self._last_rows if self._cuda else rows,
            watch=Stopwatch(self._cuda),
            before=self._last,
            roots=(self._table.sum(),),
        )
        self._step.watch.mark()

    def last_piece(self) -> None:
        """Of the step's batch, the last piece is about to be loaded: its backward pass reduces."""
        assert self._step is not None
        assert self._probe is not None
        self._step.last_piece, self._step.forwarded = True, False
        self._probe.last_piece()

    def _forward(self, *inputs: Any, **kwargs: Any) -> Any:
        step = self._step
        if step is None or self.failed or not torch.is_grad_enabled() or self._ddp is None:
            return self._model(*inputs, **kwargs)
        step.forwarded = True
        if not step.last_piece:
            # Gradients add up here, and DDP reduces the sum with the last piece.
            return self._model(*inputs, **kwargs)
        try:
            return self._ddp(*inputs, **kwargs)
        except RuntimeError as error:  # The buffers of a model are synchronised here.
            if not self._signals.is_loss(error):
                raise
            self.failed = True
            return self._model(*inputs, **kwargs)

    def backward(self, loss: Tensor, count: float | None = None) -> None:
        """Backward through this rank's part of the global mean loss times the number of ranks, or a piece of
        it; on return from the last piece the gradients are reduced.

        Args:
            loss: That part.
            count: Terms in it: then the mean is to be one over the terms of all ranks, not over rows.
        """
        step = self._step
        assert step is not None
        if self.failed:
            return
        if not step.forwarded:
            raise RuntimeError("the loss is not of the model that session.prepare() returned: call that one")
        step.loss = loss.detach() if step.loss is None else step.loss + loss.detach()
        if count is not None:
            step.count = count + (step.count or 0.0)
        if self._scaling is not None:
            loss = self._scaling.scale(loss)
        table = self._reduce(step, loss)
        if table is None:
            return
        step.watch.mark()
        step.table = table
        if self._cuda:
            step.table = torch.empty(table.shape, dtype=table.dtype, pin_memory=True)
            step.table.copy_(table, non_blocking=True)
        assert self._probe is not None
        factor = None if self._scaling is None else self._scaling.unscale()
        if step.count is not None:
            factor = self._divide_by_terms(step, table) * (1.0 if factor is None else factor)
        self._probe.reduced(factor)

    def _reduce(self, step: Step, loss: Tensor) -> Tensor | None:
        """Go backward; returns the reduced table after the last piece, unless a rank is lost."""
        if not step.last_piece:
            loss.backward()  # type: ignore[no-untyped-call]
            return None
        ddp, table = self._ddp, self._table
        assert ddp is not None
        assert table is not None
        try:
            torch.autograd.backward((loss, *step.roots))
        except RuntimeError as error:
            if not self._signals.is_loss(error):
                raise
            self.failed = True
            return None
        self._check_all_reduced(ddp)
        return table.grad

    def _gradients(self) -> list[Tensor]:
        """What this rank holds of the gradients."""
        return [p.grad for p in self._model.parameters() if p.grad is not None]

    def _divide_by_terms(self, step: Step, table: Tensor) -> Tensor:
        """Make of gradients over rows those over the terms that were counted; returns the factor."""
        terms = table[:, Column.COUNT].sum() * len(table)
        factor = float(step.rows.sum()) / terms.clamp(min=1.0)
        torch._foreach_mul_(self._gradients(), factor)
        return factor

    def _check_all_reduced(self, ddp: DistributedDataParallel) -> None:
        try:
            ddp._check_reducer_finalized()  # type: ignore[no-untyped-call]
        except RuntimeError as error:
            raise self._unreached() from error

    def _unreached(self) -> RuntimeError:
        named = self._model.named_parameters()
        missed = ", ".join(name for name, p in named if p.requires_grad and p.grad is None)
        return RuntimeError(
            f"the loss does not reach {missed}: leave it out, or freeze it by requires_grad_(False)"
        )

    def end(self) -> StepReport | None:
        """The report of this step on a CPU, of the one before on a GPU (None for the first)."""
        step, probe, now = self._step, self._probe, time.perf_counter()
        assert step is not None
        assert probe is not None
        period = 0.0 if self._ended is None else now - self._ended
        self._last = Last(
            rows=int(step.rows.sum()),
            period=period,
            norms=probe.told,
            of=probe.of,
            cost=probe.cost / period if period else 0.0,
        )
        self._ended = now
        self._unread.append(step)
        self._step = None
        return self._read(self._unread.popleft()) if len(self._unread) > self._cuda else None

    def _read(self, step: Step) -> StepReport:
        assert step.table is not None
        self._last_compute, communication = self._times(step.watch)
        self._last_rows = step.rows
        # Each row is the mean of what its rank wrote and the others' zeros.
        table = np.multiply(step.table.numpy(), len(step.table), dtype=np.float64)
        return StepReport(
            rows=step.measured_rows,
            trained=step.rows,
            table=table,
            before=step.before,
            compute_seconds=self._last_compute,
            communication_seconds=communication,
        )

    def _times(self, watch: Stopwatch) -> tuple[float, float]:
        """Seconds of computing and of waiting for the others, of a step that is done."""
        return watch.between(0, 1), watch.between(1, 2)

    def _tell(self, _: Tensor) -> Tensor:
        """The gradient of the table, when those of the model are done: what this rank tells, in its row."""
        step = self._step
        assert step is not None
        step.watch.mark()
        # The time that a GPU took is known when it has passed the event, so there it is the last step's.
        return self._row(step, self._last_compute if self._cuda else step.watch.between(0, 1))

    def _row(self, step: Step, seconds: float, saving: bool = False) -> Tensor:
        """A table with nothing but this rank's row."""
        group, signals = self._group, self._signals
        assert step.loss is not None
        assert group is not None
        signals.reducing()
        table = np.zeros((group.world_size, len(Column)), dtype=np.float32)
        before = step.before
        table[group.rank] = (
            seconds,
            # On a GPU nobody waits for it.
            0.0 if self._cuda else float(step.loss),
            signals.leaving(),
            signals.change(),
            signals.digest(),
            before.period,
            0.0,
            0.0,
            before.cost,
            step.count or 0.0,
            signals.room(),
            saving,
        )
        # The driver takes so little over before it returns, so this need not wait either.
        told = torch.from_numpy(table).to(group.device, non_blocking=True)
        if self._cuda:
            told[group.rank, Column.LOSS] = step.loss
        if before.norms is not None:
            told[group.rank, Column.OWN : Column.COST] = before.norms
        return told
