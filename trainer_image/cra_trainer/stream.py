"""The samples of an epoch from a cursor on, for every kind of data set, dealt out batch by batch.

Three kinds, all exactly once per epoch, the tail included, at any number of ranks:

- Map-style data sets (``__len__`` and ``__getitem__``) are permuted; see `cra_trainer.data`. Each rank reads
  its own samples only.
- Iterable ones are one stream for the whole group: each rank iterates all of it, keeps the rows that are its
  own and makes a batch of those only, so what should be shared out (decoding, augmenting) belongs into
  ``collate``. Nothing is shuffled; a data set that wants to does it itself, from the number that its
  ``set_epoch(epoch)`` gets, where it has that method.
- Iterable ones in parts have an attribute ``shards``: a sequence of iterables, or of functions without
  arguments that open one. The shards' order is permuted in each epoch, and to go on from a cursor only the
  shard that it points into is opened and skipped through; from a plain iterable all of the epoch so far is.

NB: What an iterable gives must be the same on every rank and whenever an epoch is iterated again: the same
samples in the same order, as many. Short of comparing all samples of all ranks nobody can notice when it is
not, and then some samples are trained twice and some never, and the ranks disagree where an epoch ends. A
data set that splits itself by ``RANK`` is such a one, and one that shuffles by random numbers of its own.

A batch that is taken is not over: until the cursor moves on, its samples stay at hand, and are dealt out anew
when the ranks or their shares change before the step is done.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol, cast

from torch.utils.data import DataLoader, IterableDataset, default_collate

from cra_trainer.allocation.shares import Ints, apportion
from cra_trainer.data import Cursor, MapDataset, chunks, fetch, permutation, slice_of

Collate = Callable[[list[Any]], Any]


class ShardedDataset(Protocol):
    """A data set in parts, each an iterable or a function that opens one."""

    @property
    def shards(self) -> Sequence[Any]: ...


Dataset = MapDataset | Iterable[Any] | ShardedDataset


class Source(Protocol):
    """An epoch's samples, from the cursor that `seek` was last given.

    Attributes:
        size: Samples of an epoch; 0 while nobody knows.
    """

    size: int

    def seek(self, cursor: Cursor) -> None:
        """Go to a cursor of the same epoch."""

    def peek(self, rows: int) -> int:
        """How many samples the next global batch has, when it should have `rows`: fewer at the epoch's end,
        then 0.
        """

    def after(self, total: int) -> Cursor:
        """The cursor behind the next global batch, when that has `total` samples."""

    def take(self, rows: Ints, rank: int) -> Any:
        """A rank's batch of the next global batch, of which rank i has rows[i].

        A rank without a row gets one: the reduction of gradients needs every rank.
        """


def open_source(dataset: Dataset, cursor: Cursor, *, seed: int, collate: Collate = default_collate) -> Source:
    """The rest of the cursor's epoch.

    Raises:
        TypeError: `dataset` is none of the three kinds; the text says what to give instead.
    """
    if isinstance(dataset, DataLoader):
        raise TypeError("expected a data set, got a DataLoader: give its data set, the session makes batches")
    if isinstance(dataset, Iterator):
        raise TypeError("expected a data set that can be iterated once per epoch, got an iterator")
    if _is_indexed(dataset):
        return _Indexed(cast(MapDataset, dataset), cursor, seed, collate)
    if hasattr(dataset, "shards") or hasattr(dataset, "__iter__"):
        return _Streamed(dataset, cursor, seed, collate)
    raise TypeError(f"expected a data set, got a {type(dataset).__name__}, which has no samples")


def _is_indexed(dataset: Dataset) -> bool:
    # NB: torch's IterableDataset inherits a __getitem__ that only raises.
    indexed = hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")
    return indexed and not isinstance(dataset, IterableDataset)


class _Indexed:
    """A map-style data set in the epoch's permutation."""

    def __init__(self, dataset: MapDataset, cursor: Cursor, seed: int, collate: Collate) -> None:
        self._dataset, self._cursor, self._collate = dataset, cursor, collate
        self.size = len(dataset)
        self._order = permutation(self.size, seed=seed, epoch=cursor.epoch)

    def seek(self, cursor: Cursor) -> None:
        self._cursor = cursor

    def peek(self, rows: int) -> int:
        return max(min(rows, self.size - self._cursor.index), 0)

    def after(self, total: int) -> Cursor:
        return self._cursor.advance(total)

    def take(self, rows: Ints, rank: int) -> Any:
        part, start = slice_of(rows, rank), self._cursor.index
        mine = self._order[start + part.start : start + part.stop]
        return fetch(self._dataset, mine if len(mine) else self._order[start : start + 1], self._collate)


class _Streamed:
    """An iterable data set, in one part or in shards."""

    def __init__(self, dataset: Any, cursor: Cursor, seed: int, collate: Collate) -> None:
        self._dataset, self._seed, self._collate = dataset, seed, collate
        # Epochs that are over have had all samples, each once.
        self.size = (cursor.samples - cursor.index) // cursor.epoch if cursor.epoch else _length(dataset)
        self._open(cursor)

    def _open(self, cursor: Cursor) -> None:
        if hasattr(self._dataset, "set_epoch"):
            self._dataset.set_epoch(cursor.epoch)
        # What comes next: each sample with its shard and its place there.
        self._ahead: deque[tuple[Any, int, int]] = deque()
        self._rest = _samples(self._dataset, cursor, self._seed)
        self._cursor = cursor

    def seek(self, cursor: Cursor) -> None:
        passed = cursor.index - self._cursor.index
        if 0 <= passed <= len(self._ahead):
            for _ in range(passed):
                self._ahead.popleft()
            self._cursor = cursor
        else:
            self._open(cursor)

    def peek(self, rows: int) -> int:
        # One more, whose place is where to go on.
        self._ahead.extend(itertools.islice(self._rest, max(rows + 1 - len(self._ahead), 0)))
        return min(rows, len(self._ahead))

    def after(self, total: int) -> Cursor:
        if total < len(self._ahead):
            _, shard, offset = self._ahead[total]
        else:
            _, shard, offset = self._ahead[-1]
            offset += 1
        return self._cursor.advance(total, shard=shard, offset=offset)

    def take(self, rows: Ints, rank: int) -> Any:
        part = slice_of(rows, rank)
        mine = (
            itertools.islice(self._ahead, part.start, part.stop)
            if part.start < part.stop
            else [self._ahead[0]]
        )
        return self._collate([sample for sample, _, _ in mine])


def _samples(dataset: Any, cursor: Cursor, seed: int) -> Iterator[tuple[Any, int, int]]:
    """The samples from a cursor on, each with its shard's place in the epoch's order and its own in it."""
    if not hasattr(dataset, "shards"):
        rest = itertools.islice(enumerate(dataset), cursor.index, None)
        yield from ((sample, 0, i) for i, sample in rest)
        return
    shards: Sequence[Any] = dataset.shards
    order = permutation(len(shards), seed=seed, epoch=cursor.epoch).tolist()
    for place in range(cursor.shard, len(order)):
        shard = shards[order[place]]
        if callable(shard) and not hasattr(shard, "__iter__"):
            shard = shard()
        skipped = cursor.offset if place == cursor.shard else 0
        for i, sample in itertools.islice(enumerate(shard), skipped, None):
            yield sample, place, i


def _length(dataset: Any) -> int:
    """Samples of a data set that says how many it has, else 0: some that are iterable define `__len__` only
    to raise NotImplementedError.
    """
    try:
        return len(dataset)
    except (TypeError, NotImplementedError):
        return 0


def deal(
    dataset: Dataset, shares: Ints, rank: int, *, batch_size: int, collate: Collate = default_collate
) -> Iterator[Any]:
    """A rank's part of a data set, in its own order, in batches of about `batch_size`: for evaluation.

    Args:
        dataset: Of any of the three kinds.
        shares: What the ranks' parts are proportional to.
        rank: Whose part.
        batch_size: Most samples of a batch; of what can only be iterated, most on average over the ranks.
        collate: Makes a batch of a list of samples.
    """
    if _is_indexed(dataset):
        indexed = cast(MapDataset, dataset)
        part = slice_of(apportion(shares, len(indexed)), rank)
        for indices in chunks(part, batch_size):
            yield fetch(indexed, indices, collate)
        return
    source = open_source(dataset, Cursor(), seed=0, collate=collate)
    while total := source.peek(batch_size * len(shares)):
        rows = apportion(shares, total)
        if rows[rank]:
            yield source.take(rows, rank)
        source.seek(source.after(total))
