"""The session: what a training script says to train on any number of ranks, stop and go on.

A whole script::

    import cra_trainer

    session = cra_trainer.init()                            # finds its group; one process outside a cluster
    train, test = load_my_datasets()                        # torch data sets, equal on all ranks
    model = MyModel()
    settings = session.config.training.optimizer
    optimizer = cra_trainer.make_optimizer(model.parameters(), settings)
    model, optimizer = session.prepare(model, optimizer)    # device, newest checkpoint, DDP

    for epoch in session.epochs():                          # from where the checkpoint stopped
        model.train()
        for x, y in session.batches(train):                 # this rank's rows of the next global batch
            session.backward(loss_function(model(x), y))    # mean loss over these rows, or one loss per row
            session.step()                                  # the optimizer's step, and zero gradients
        model.eval()
        correct = count = 0
        for x, y in session.shard(test):                    # this rank's part of the test set
            correct, count = correct + accurate(model(x), y), count + len(y)
        session.report(accuracy=(correct, count))           # merged over ranks; may end the training
    session.finish()                                        # last checkpoint, result

The contract:

- Every rank runs the same script and calls `batches`/`backward`/`step`, `report` and `finish` alike.
- Each sample is trained exactly once per epoch, whatever the number of ranks and their shares. A rank's
  batches may differ in size from step to step. (A rank that a very small last batch leaves without a row gets
  one that counts for nothing.)
- The gradient is the mean over the samples of the global batch, as if one process had trained it.
- Ranks come and go between two turns of the loop over `batches`. A rank that comes has prepared before, gets
  its state from one that is there and enters the loop where the others are; the others only pause. So the
  number of ranks and a rank's own number may change from turn to turn.
- When a rank other than 0 dies, the others do the turn that it broke once more, without it. What the script
  does between `backward` and the next turn is done again too; prepared extras are put back before. (Of a
  model that is split over the ranks a part died, so all ranks end, to go on from the newest checkpoint.)
- A checkpoint holds a whole turn of the loop, with whatever the script does after `step`.
- A rank that gets SIGTERM leaves a moment later, after a turn: the loop raises ``SystemExit(143)``. When rank
  0 gets it, all ranks leave once it has saved a checkpoint.
- Random numbers (torch, random, NumPy) are seeded for each step from the job's seed, the step and the rank.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import default_collate

from cra_trainer import data, gpu, process, reports, state, stream, termination
from cra_trainer.account import Account
from cra_trainer.allocation.layers import LayerCut
from cra_trainer.allocation.ranks import RankPlanner
from cra_trainer.allocation.shares import Floats
from cra_trainer.allocation.strategies import make_strategy
from cra_trainer.allocation.tasks import TaskWeights
from cra_trainer.allocation.waiting import WaitGate
from cra_trainer.batch import Batch
from cra_trainer.batching import Batching
from cra_trainer.calls import Calls
from cra_trainer.checkpoint import State
from cra_trainer.config import Config, read_config
from cra_trainer.elastic.group import Group, Membership
from cra_trainer.elastic.roster import NOTHING
from cra_trainer.evaluation import Classification, lines, scores
from cra_trainer.holding import Holding, make_holding
from cra_trainer.keeper import Keeper
from cra_trainer.measures import Measure
from cra_trainer.memory import Room
from cra_trainer.optimizers import divides_by_root, scaled
from cra_trainer.parallel import Reducer, Signals
from cra_trainer.precision import Scaling
from cra_trainer.report import StepReport
from cra_trainer.tracking import Tracker

log = logging.getLogger("cra_trainer")


class SessionError(RuntimeError):
    """The script used the session in a way that the contract excludes; the text says what to do instead."""


def init() -> Session:
    """Start a session; the first thing a script does. `Session.prepare` joins the group.

    Raises:
        ConfigError: The environment or ``CRA_CONFIG`` holds a value that cannot be used.
        torch.distributed.DistError: Rank 0 cannot be reached.
    """
    this = process.start()
    config = read_config()
    torch.manual_seed(config.training.seed)
    return Session(this, config, Membership(this.env, on_member=this.defer_stop, on_exclusion=this.give_up))


class Session:
    """One training, seen from one rank; made by `init`.

    Attributes:
        config: The job's spec as far as the trainer acts on it.
    """

    def __init__(self, this: process.Process, config: Config, membership: Membership) -> None:
        self.config = config
        self._process, self._membership = this, membership
        self._group: Group | None = None
        ranks = config.ranks
        self._batching = Batching(config.training, world_size=this.env.world_size)
        self._planner = RankPlanner(
            strategy=make_strategy(
                ranks.strategy, heads=ranks.heads, learn=ranks.learn, weights=ranks.weights, seed=ranks.seed
            ),
            world_size=this.env.world_size,
            batch_size=self._batching.size,
        )
        self._keeper = Keeper(this, config.checkpoint)
        self._account = Account(this.readings, self._planner, self._batching, epochs=config.training.epochs)
        self._room = Room(membership.device)
        self._position = state.Position()
        self._tracker = Tracker(this.env, config.training.tracking)
        self._prepared: tuple[state.Parts, Reducer] | None = None
        self._scaling: Scaling | None = None
        self._batch: Batch | None = None
        self._undo: state.Undo | None = None
        self._reported = 0
        self._calls = Calls()
        self._cut = False

    @property
    def rank(self) -> int:
        """This process's number in the group, from 0; rank 0 is the one that prints and writes."""
        return self._group.rank if self._group else self._process.env.rank

    @property
    def world_size(self) -> int:
        """Number of processes in the group."""
        return self._group.world_size if self._group else self._process.env.world_size

    @property
    def device(self) -> torch.device:
        """Where this rank computes."""
        return self._membership.device

    def prepare(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer | None = None,
        *,
        scaler: torch.amp.GradScaler | None = None,
        fully_shard: Iterable[nn.Module] | None = None,
        **extras: state.Stateful,
    ) -> tuple[nn.Module, torch.optim.Optimizer]:
        """Move the model to the device, join the group, and take up the state of the training.

        The state is that of a rank that trains already, else the newest good checkpoint, else what is given.

        Args:
            model: The model; the one returned wraps it, and is the one to call.
            optimizer: Its optimizer. Without one this is inference: the model takes its weights from the
                newest good checkpoint, whichever script made it, and none is written.
            scaler: For float16: `backward` scales by it and `step` asks it; the script calls none of it.
            fully_shard: Blocks of the model. With them parameters, gradients and optimizer state are split
                over the ranks by torch's `fully_shard` (FSDP2), which gathers one block at a time.
            extras: Whatever else has a state to go on from, by name: a scheduler, an averaged model.

        Raises:
            SessionError: Called twice.
            StateError: An extra's state holds more than tensors and plain values.
            ValueError: The checkpoint is of another script, or there is none to infer from; or the model
                cannot be split so.
        """
        if self._prepared is not None:
            raise SessionError(
                "session.prepare(): was called before; prepare model, optimizer and all else at once"
            )
        if fully_shard is None:
            model.to(self.device)
        inferring = optimizer is None
        if optimizer is None:
            optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        self._batching.by_root = divides_by_root(optimizer)
        if fully_shard is not None and self.config.layers.compute_budget < 1:
            raise SessionError(
                "session.prepare(): fully_shard does not go with spec.allocator.layers.computeBudget below 1"
            )
        parts = state.Parts(
            model=model,
            optimizer=optimizer,
            extras=extras if scaler is None else {"scaler": scaler, **extras},
            planner=self._planner,
            batching=self._batching,
            layers=None if inferring else self._make_cut(model),
            holding=make_holding(model, optimizer, fully_shard, self._membership.is_loss),
        )
        self._batching.paired = parts.holding.split
        self._scaling = None if scaler is None else Scaling(scaler, optimizer)
        state.check(parts)
        if inferring:
            # What is there is only read.
            self._keeper.load_weights(model)
            self._tracker.close()
        else:
            self._position = self._keeper.restore(parts)
        signals = Signals(
            reducing=lambda: self._membership.computing(False),
            leaving=lambda: self._process.stopping,
            change=lambda: self._membership.change_wanted,
            digest=lambda: self._planner.digest,
            room=self._room,
            saving=self._keeper.claim,
            is_loss=self._membership.is_loss,
        )
        reducer = parts.holding.reducer(model, self.device, signals, self._scaling)
        self._prepared = parts, reducer
        self._process.progress = self._describe
        self._enter(self._membership.join(self._position.standing))
        self._process.refresh, self._process.allocation = self._publish, self._explain
        self._process.readings.ready = True
        return reducer.replica, optimizer

    def _make_cut(self, model: nn.Module) -> LayerCut | None:
        """What follows the budget for layers, if there is one."""
        layers = self.config.layers
        if layers.compute_budget >= 1:
            return None
        gate = WaitGate(self.config.training.seed) if layers.learn == "reward" else None
        return LayerCut(model, layers.compute_budget, gate)

    def _enter(self, group: Group) -> None:
        """Take one's place in a new group; one that breaks while it is formed is followed by the next."""
        parts, reducer = self._use("prepare")
        empty = self._group is None and group.rank > 0
        while True:
            before, self._group = self._group, group
            self._batching.resize(group.world_size)
            self._planner.rebatch(self._batching.size)
            if before is not None or empty:
                nobody = [-1] * group.world_size
                self._planner.resize(nobody if before is None else group.plan.kept(before.plan))
            try:
                group.connect()
                if self._membership.broken:
                    raise RuntimeError("the group broke while it was formed")
                parts.holding.enter(group, lambda: state.live(parts, self._position), self._restore)
                self._planner.adopt(group.agree(self._planner.full))
                break
            except RuntimeError as error:
                if not self._membership.is_loss(error):
                    raise
                group = self._membership.next(NOTHING if empty else self._position.standing, broken=True)
        reducer.attach(group)
        self._account.enter(group.rank, group.world_size, group.generation)

    def _restore(self, given: State) -> None:
        self._position = state.restore(given, self._use("prepare")[0])

    def _regroup(self) -> None:
        """Go from this group to the next, with those who are left and those who have come."""
        parts, reducer = self._use("batches")
        assert self._group is not None
        broken = reducer.failed or self._membership.broken
        parts.holding.quit(complete=not broken)
        if self._undo is not None:
            self._undo.restore(parts)
            parts.optimizer.zero_grad(set_to_none=True)
            self._undo = None
        reducer.detach()
        # Who still wants to leave says so again after the next step.
        self._calls = Calls()
        self._enter(self._membership.next(self._position.standing, broken=broken))

    def epochs(self) -> Iterator[int]:
        """The epochs still to train, from the one that a checkpoint stopped in, until the goal is reached."""
        self._use("epochs")
        while not self._over:
            epoch, self._reported = self._position.cursor.epoch, 0
            yield epoch
            self._settle()
            # Others may have been further when the group broke.
            if self._position.cursor.epoch == epoch:
                self._position = self._position.next_epoch()

    def batches(
        self,
        dataset: stream.Dataset,
        *,
        collate: Callable[[list[Any]], Any] = default_collate,
        at_most: int | None = None,
    ) -> Iterator[Any]:
        """This rank's batches of the rest of the epoch, on its device.

        Args:
            dataset: The training set, the same on every rank: map-style, iterable, or iterable in shards, as
                described in `cra_trainer.stream`.
            collate: Makes a batch of a list of samples; not used for a `TensorDataset`.
            at_most: Rows that fit this rank's memory at once. A batch of more comes in pieces, of which each
                has its `backward` and `step`; gradients add up, and only the last `step` is one.

        Raises:
            SessionError: The data set is empty, or the last batch was not stepped.
            SystemExit: With code 143, on every rank after the same step, when any rank got SIGTERM.
        """
        parts, reducer = self._use("batches")
        if at_most is not None and any(isinstance(m, nn.SyncBatchNorm) for m in parts.model.modules()):
            raise SessionError(
                "session.batches(): at_most does not go with SyncBatchNorm, whose ranks wait for each other "
                "in every piece; use GroupNorm"
            )
        reducer.rest()
        seed, cursor = self.config.training.seed, self._position.cursor
        epoch = cursor.epoch
        source = stream.open_source(dataset, cursor, seed=seed, collate=collate)
        self._account.size = source.size
        # The epoch may be over because others were further when the group broke.
        while (cursor := self._position.cursor).epoch == epoch:
            started = time.perf_counter()
            state.seed_step(seed, step=cursor.step, rank=self.rank)
            source.seek(cursor)
            total = source.peek(self._batching.size)
            if not total:
                # Now it is known at the latest.
                self._account.size = source.size or cursor.index
                break
            rows = self._planner.rows(total, after=cursor.samples)
            reducer.begin(rows, measure=self._batching.due(cursor.step))
            self._membership.computing(True)
            after = source.after(total)
            batch = self._batch = Batch(
                rows=rows,
                rank=self.rank,
                total=total,
                after=after,
                started=started,
                largest=at_most,
                alike=parts.holding.split,
            )
            while True:
                if batch.last:
                    reducer.last_piece()
                piece = batch.piece
                yield data.to_device(source.take(*batch.slot), self.device)
                if self._batch is not batch or batch.piece == piece:
                    break
            self._settle()
        if not cursor.samples:
            raise SessionError("session.batches(): the data set is empty; give at least one sample")

    def backward(self, loss: Tensor, *, count: float | None = None) -> None:
        """Backward pass; on return the gradients are the mean over the global batch, on every rank.

        Args:
            loss: The mean loss over the rows of this rank's batch (no dimension), or each row's, [rows]; with
                `count` the sum over so many terms.
            count: Terms of this rank's loss, where rows have unequal numbers of them, as texts with ignored
                tokens do: the gradient is the mean over the terms of the whole global batch. 0 where a rank
                has none. Give it in all calls or in none.

        Raises:
            SessionError: No batch is open, or the loss has another shape.
        """
        batch = self._batch
        if self._prepared is None or batch is None or batch.backed:
            raise SessionError("session.backward(): call it once for each batch of session.batches()")
        try:
            part = batch.weigh(loss, count)
        except ValueError as error:
            raise SessionError(f"session.backward(): {error}") from None
        self._prepared[1].backward(part, None if count is None else count * bool(batch.size))
        batch.backed = True

    def step(self, *, clip_norm: float | None = None) -> bool:
        """Take the optimizer step; from now on it is part of the training on every rank.

        Args:
            clip_norm: Largest norm of the whole gradient, which is scaled down to it where it is larger.

        Returns:
            Whether there was a step: not after a piece of a batch that is not its last, nor where float16
            overflowed.

        Raises:
            SessionError: `backward` was not called for this batch.
        """
        batch = self._batch
        if self._prepared is None or batch is None or not batch.backed:
            raise SessionError("session.step(): call session.backward(loss) for this batch first")
        parts, reducer = self._prepared
        if not batch.last:
            batch.piece, batch.backed = batch.piece + 1, False
            return False
        if reducer.failed:
            self._batch, self._undo = None, state.Undo.of(parts)
            return True
        if clip_norm is not None:
            nn.utils.clip_grad_norm_(parts.model.parameters(), clip_norm)
        if parts.layers is not None:
            done = self._account.progress(self._position).ratio
            self._cut = parts.layers.follow(parts.optimizer, done, self._account.measured) or self._cut
        factor = self._batching.factor(batch.total)
        taken = True
        with scaled(parts.optimizer, factor):
            if self._scaling is None:
                parts.optimizer.step()
            else:
                taken = self._scaling.step()
        parts.optimizer.zero_grad(set_to_none=True)
        self._batch = None
        seconds = time.perf_counter() - batch.started
        self._position = replace(
            self._position,
            cursor=batch.after,
            seconds=self._position.seconds + seconds,
        )
        self._account.step(
            rows=batch.mine,
            total=batch.total,
            seconds=seconds,
            number=self._position.cursor.step,
            factor=factor,
        )
        report = reducer.end()
        if report is not None:
            self._take(report)
        if self._tracker.due:
            rate = {"train/learning_rate": float(parts.optimizer.param_groups[0]["lr"]) * factor}
            self._tracker.write(self._position.cursor.step, self._account.curves() | rate)
        return taken

    def _take(self, report: StepReport) -> None:
        """What all ranks told each other in a step."""
        self._account.take(report)
        self._calls.hear(report, self.rank)
        started = time.perf_counter()
        digests = report.digests if report.calls else None
        measured = self._planner.observe(report.rows, report.seconds, digests, report.room)
        self._process.readings.allocator_seconds = time.perf_counter() - started
        if measured:
            self._account.note_stragglers()
        gradients = report.gradients
        self._batching.observe(
            rows=report.total,
            took=report.took,
            gradients=gradients,
            cost=0.0 if gradients is None else report.measuring_cost,
        )
        self._planner.rebatch(self._batching.size)

    def shard(
        self,
        dataset: stream.Dataset,
        *,
        batch_size: int = 256,
        collate: Callable[[list[Any]], Any] = default_collate,
    ) -> Iterator[Any]:
        """This rank's part of a data set to evaluate, as large as its share, in batches on its device."""
        shares = self._planner.full
        holding = Holding() if self._prepared is None else self._prepared[0].holding
        with holding.gathered():
            for batch in stream.deal(dataset, shares, self.rank, batch_size=batch_size, collate=collate):
                yield data.to_device(batch, self.device)

    def report(
        self, classification: Classification | None = None, /, **measures: Measure
    ) -> dict[str, float]:
        """Tell how good the model is, which may end the training; every rank calls it, with the same names.

        Args:
            classification: Right and wrong answers per class over this rank's own samples: gives the metric
                `accuracy`, and the last one the report per class in the result.
            measures: For each name a number, of which rank 0's counts, or a pair (sum, count) over this
                rank's own samples, which is merged over the ranks and gives each rank's performance P.

        Returns:
            The merged metrics, the same on every rank.
        """
        training, report = self.config.training, reports.Report(classification, measures)
        table = self._gather(report.numbers)
        if table is None:
            # The others have gone on with it, and this rank with their state.
            return dict(self._position.metrics)
        merged, performance = report.merged(table), report.performances(table, training)
        if performance is not None:
            self._account.performance = performance
        position = report.entered(self._position, table, training)
        self._position = replace(position, reported=self._reported)
        weighed = reports.judge_tasks(self._tasks, merged, training)
        if self.rank == 0:
            step = self._position.cursor.step
            self._tracker.write(step, {f"report/{name}": value for name, value in merged.items()})
            told = reports.line(self._position, merged, training.epochs, self._account.rate.value)
            for line in [told, *weighed]:
                log.info("%s", line)
        return merged

    @property
    def _tasks(self) -> list[TaskWeights]:
        extras = self._prepared[0].extras.values() if self._prepared is not None else ()
        return [extra for extra in extras if isinstance(extra, TaskWeights)]

    def _gather(self, values: list[float]) -> Floats | None:
        """Every rank's numbers of this report; None if it was made without this rank."""
        self._reported += 1
        while self._position.reported < self._reported:
            assert self._group is not None
            try:
                return self._group.gather(values)
            except RuntimeError as error:
                if not self._membership.is_loss(error):
                    raise
                self._regroup()
        return None

    def finish(self, classification: Classification | None = None, /, **measures: Measure) -> None:
        """End the training: a last `report` if there is one, the last checkpoint, and the result."""
        parts, reducer = self._use("finish")
        if classification is not None or measures:
            self.report(classification, **measures)
        self._account.finished = True
        self._keeper.save(parts, self._position, wait=True)
        self._tracker.close()
        reducer.detach()
        while not self._membership.finish():
            self._regroup()
        if self.rank == 0:
            for line in [*lines(scores(self._position.classes)), *self._account.lines()]:
                log.info(line)
            self._process.say({**self._describe(), "outcome": "succeeded"})

    @property
    def _over(self) -> bool:
        return bool(self._position.goal.reason) or self._position.cursor.epoch >= self.config.training.epochs

    def _use(self, caller: str) -> tuple[state.Parts, Reducer]:
        """What was prepared, for a call that comes between two steps."""
        if self._prepared is None:
            raise SessionError(f"session.{caller}(): call session.prepare(model, optimizer) first")
        if self._batch is not None:
            raise SessionError(
                f"session.{caller}(): call session.backward(loss) and session.step() for each batch first"
            )
        return self._prepared

    def _settle(self) -> None:
        """Between two steps, when the script has done all it does after one: leave, go on in another group,
        or keep a checkpoint.
        """
        parts, reducer = self._use("batches")
        if reducer.failed:
            self._regroup()
        elif self._calls.stop:
            self._keeper.save(parts, self._position, wait=True)
            self._tracker.close()
            self._process.say({**self._describe(), "outcome": "left"})
            raise SystemExit(termination.LEFT)
        elif self._calls.leave:
            parts.holding.quit(complete=True)
            self._membership.leave()
            self._process.say({**self._describe(), "outcome": "left"})
            raise SystemExit(termination.LEFT)
        elif self._calls.change:
            self._regroup()
        elif reducer.saving if parts.holding.split else self._keeper.due:
            reducer.saving = False
            self._keeper.save(parts, self._position)
        if self._cut and self._group is not None:
            # Other blocks train from now on, and what is frozen leaves the reduction.
            self._cut = False
            reducer.attach(self._group)
            reducer.rest()

    def _publish(self) -> None:
        # NB: on a scrape's thread: it reads what training replaces as a whole, not what it changes in place.
        self._account.publish(self._position)
        readings, sensors = self._process.readings, gpu.look(self.device)
        readings.peak_memory_bytes = self._room.fullest
        readings.gpu_utilization_ratio, readings.gpu_power_watts = sensors.utilization, sensors.watts
        readings.gpu_temperature_celsius = sensors.celsius
        self._keeper.publish()

    def _explain(self) -> dict[str, Any]:
        layers = self._prepared[0].layers if self._prepared is not None else None
        tasks = [one for weights in self._tasks for one in weights.explain()]
        return {
            **self._planner.explain(),
            **({} if layers is None else {"layers": layers.explain()}),
            **({"tasks": tasks} if tasks else {}),
        }

    def _describe(self) -> dict[str, Any]:
        return {**self._account.describe(self._position), **self._keeper.describe()}
