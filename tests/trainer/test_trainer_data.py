"""Each sample exactly once per epoch, however the work is split and whoever joins in."""

from __future__ import annotations

import functools
import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from cra_trainer.allocation.shares import apportion
from cra_trainer.data import Cursor, fetch, mix, permutation, slice_of, to_device
from cra_trainer.stream import Source, open_source


class Sharded:
    """An iterable data set in parts, which tells which of them are opened."""

    def __init__(self, sizes: list[int]) -> None:
        ends = list(itertools.accumulate(sizes))
        self.opened: list[int] = []
        self.shards = [
            functools.partial(self._open, i, range(end - size, end))
            for i, (size, end) in enumerate(zip(sizes, ends, strict=True))
        ]

    def _open(self, number: int, samples: range) -> Iterator[int]:
        self.opened.append(number)
        yield from samples


class Plainly:
    """The least that can be iterated."""

    def __init__(self, size: int) -> None:
        self._size = size

    def __iter__(self) -> Iterator[int]:
        return iter(range(self._size))


class Torchs(IterableDataset[int]):
    """torch's own kind, in another order in each epoch."""

    def __init__(self, size: int) -> None:
        self._size, self._epoch = size, 0

    def set_epoch(self, epoch: int) -> None:
        self._epoch = epoch

    def __iter__(self) -> Iterator[int]:
        return iter(permutation(self._size, seed=11, epoch=self._epoch).tolist())


def cut(size: int, pieces: int) -> list[int]:
    """`size` samples in shards of unequal sizes, some of them empty."""
    return [int(n) for n in apportion([(i * 7) % 5 + 0.01 for i in range(pieces)], size)]


KINDS: dict[str, Callable[[int], Any]] = {
    "map": lambda size: list(range(size)),
    "iterable": Plainly,
    "torch": Torchs,
    "one shard": lambda size: Sharded([size]),
    "shards": lambda size: Sharded(cut(size, 9)),
}
EVENTS = ["go on", "go on", "crash", "grow", "shrink", "shares", "batch", "save", "restore", "catch up"]


def collate(samples: list[int]) -> list[int]:
    return samples


@pytest.mark.parametrize("kind", KINDS)
@given(st.data(), st.integers(1, 120), st.integers(0, 2**31))
def test_whatever_happens_each_sample_is_trained_once_per_epoch(
    kind: str, data: st.DataObject, size: int, seed: int
) -> None:
    """Ranks as the session has them, each with a source of its own, opened when it came."""
    epochs = 2

    def open_at(cursor: Cursor) -> Source:
        return open_source(KINDS[kind](size), cursor, seed=seed, collate=collate)

    cursor = saved = Cursor()
    trained: Counter[tuple[int, int]] = Counter()
    kept = trained.copy()
    batch_size = data.draw(st.integers(1, 64))
    restores = 3
    while cursor.epoch < epochs:
        ranks = [open_at(cursor) for _ in range(data.draw(st.integers(1, 4)))]
        shares = [1.0] * len(ranks)
        while True:
            for source in ranks:
                source.seek(cursor)
            (total,) = {source.peek(batch_size) for source in ranks}
            if not total:
                assert {source.size for source in ranks} <= {0, size}
                assert cursor.epoch == 0 or ranks[0].size == size
                cursor = cursor.next_epoch()
                break
            rows = apportion(shares, total)
            (after,) = {source.after(total) for source in ranks}
            batches = [source.take(rows, rank) for rank, source in enumerate(ranks)]
            event = data.draw(st.sampled_from(EVENTS))
            if event == "crash":
                # The step counts for nothing, and the last rank is gone.
                ranks, shares = ranks[:-1] or [open_at(cursor)], shares[:-1] or [1.0]
                continue
            for rank, batch in enumerate(batches):
                # What a rank without rows gets is not trained.
                trained.update((cursor.epoch, sample) for sample in batch[: int(rows[rank])])
            cursor = Cursor(**asdict(after))
            match event:
                case "grow":
                    shares.append(1.0)
                    ranks.append(open_at(cursor))
                case "shrink" if len(ranks) > 1:
                    ranks.pop()
                    shares.pop()
                case "shares":
                    shares = data.draw(st.lists(st.floats(0.01, 1), min_size=len(ranks), max_size=len(ranks)))
                case "batch":
                    batch_size = data.draw(st.integers(1, 64))
                case "save":
                    saved, kept = cursor, trained.copy()
                case "restore" if restores:
                    cursor, trained, restores = saved, kept.copy(), restores - 1
                    break
                case "catch up":
                    # A rank that missed the step had its batch at hand, and one that is new had not.
                    ranks[0] = open_at(saved) if saved.epoch == cursor.epoch else open_at(cursor)
    assert trained == Counter(itertools.product(range(epochs), range(size)))
    assert cursor.samples == epochs * size


def test_to_go_on_only_the_shard_that_the_cursor_points_into_is_opened() -> None:
    first = Sharded([10] * 8)
    source = open_source(first, Cursor(), seed=3, collate=collate)
    cursor, begun = Cursor(), []
    for _ in range(5):
        assert source.peek(9) == 9
        begun += source.take(np.array([9]), 0)
        cursor = source.after(9)
        source.seek(cursor)
    assert (cursor.index, cursor.shard, cursor.offset) == (45, 4, 5)
    again = Sharded([10] * 8)
    source = open_source(again, cursor, seed=3, collate=collate)
    assert source.peek(100) == 35
    rest = source.take(np.array([35]), 0)
    assert sorted(begun + rest) == list(range(80))
    assert again.opened == permutation(8, seed=3, epoch=0).tolist()[4:]
    # At the very end of a shard the cursor points to the next one.
    source = open_source(first, Cursor(), seed=3, collate=collate)
    source.peek(10)
    assert (source.after(10).shard, source.after(10).offset) == (1, 0)


def test_the_order_of_shards_differs_from_epoch_to_epoch() -> None:
    def order(epoch: int) -> list[int]:
        source = open_source(Sharded([2] * 20), Cursor(epoch=epoch), seed=3, collate=collate)
        source.peek(40)
        taken: list[int] = source.take(np.array([40]), 0)
        return taken

    assert order(0) == order(0) != order(1)
    assert sorted(order(1)) == list(range(40))


def test_only_a_ranks_own_rows_are_made_into_a_batch() -> None:
    made: list[list[int]] = []
    source = open_source(Plainly(10), Cursor(), seed=0, collate=made.append)
    source.peek(10)
    source.take(np.array([4, 0, 6]), 2)
    source.take(np.array([4, 0, 6]), 1)
    assert made == [[4, 5, 6, 7, 8, 9], [0]]


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        (iter([1, 2]), "got an iterator"),
        (DataLoader(TensorDataset(torch.ones(2))), "got a DataLoader"),
        (3, "got a int"),
    ],
)
def test_what_cannot_be_dealt_out_is_refused(dataset: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        open_source(dataset, Cursor(), seed=0)


def test_a_cursor_of_an_older_checkpoint_is_understood() -> None:
    old = {"epoch": 2, "index": 5, "step": 7, "samples": 25}
    assert Cursor(**old).advance(2) == Cursor(epoch=2, index=7, step=8, samples=27)


def test_the_order_differs_from_epoch_to_epoch_and_follows_the_seed() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        return permutation(100, seed=seed, epoch=epoch).tolist()

    assert order(0, 0) == order(0, 0)
    assert order(0, 0) != order(0, 1) != order(1, 0)
    assert mix(0, 1) != mix(1, 0)


def test_slices_cover_a_batch_without_gap_or_overlap() -> None:
    rows = np.array([3, 0, 5])
    assert [list(range(8))[slice_of(rows, i)] for i in range(3)] == [[0, 1, 2], [], [3, 4, 5, 6, 7]]


class Plain(Dataset[tuple[torch.Tensor, int]]):
    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return torch.full((2,), float(index)), index


class Batched(Plain):
    def __getitems__(self, indices: list[int]) -> list[tuple[torch.Tensor, int]]:
        return [(torch.full((2,), float(i)), i) for i in indices]

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        raise AssertionError("sample by sample, though the data set can fetch many at once")


def test_a_batch_is_the_same_from_every_kind_of_data_set() -> None:
    x = torch.arange(10.0)[:, None].expand(10, 2)
    for dataset in (TensorDataset(x, torch.arange(10)), Plain(), Batched()):
        values, labels = fetch(dataset, torch.tensor([7, 1]))
        assert values.tolist() == [[7, 7], [1, 1]]
        assert labels.tolist() == [7, 1]


def test_a_batch_keeps_its_form_on_its_way_to_the_device() -> None:
    batch = {"x": torch.ones(2), "more": [torch.zeros(1), ("text", 3)]}
    moved = to_device(batch, torch.device("meta"))
    assert moved["x"].device.type == "meta"
    assert moved["more"][0].device.type == "meta"
    assert moved["more"][1] == ("text", 3)
