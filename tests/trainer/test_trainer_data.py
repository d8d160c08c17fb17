"""Each sample exactly once per epoch, however the work is split and whoever joins in."""

from __future__ import annotations

from collections import Counter

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import Dataset, TensorDataset

from cra_trainer.allocation.shares import apportion
from cra_trainer.data import Cursor, fetch, mix, permutation, slice_of, to_device


@given(st.data(), st.integers(1, 200), st.integers(1, 64), st.integers(0, 2**31))
def test_any_sequence_of_splits_and_restores_trains_each_sample_once(
    data: st.DataObject, size: int, batch_size: int, seed: int
) -> None:
    cursor = saved = Cursor()
    trained: Counter[int] = Counter()
    restores = data.draw(st.integers(0, 3))
    while cursor.index < size:
        world_size = data.draw(st.integers(1, 8))
        shares = data.draw(st.lists(st.floats(0.01, 1), min_size=world_size, max_size=world_size))
        total = min(batch_size, size - cursor.index)
        rows = apportion(shares, total)
        batch = permutation(size, seed=seed, epoch=cursor.epoch)[cursor.index : cursor.index + total]
        for rank in range(world_size):
            trained.update(batch[slice_of(rows, rank)].tolist())
        cursor = cursor.advance(total)
        match data.draw(st.sampled_from(["go on", "go on", "save", "restore"])):
            case "save":
                saved, at_save = cursor, trained.copy()
            case "restore" if saved.step and restores:
                cursor, trained, restores = saved, at_save.copy(), restores - 1
    assert trained == Counter(range(size))
    assert cursor.samples == size


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
