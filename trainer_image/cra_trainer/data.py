"""Which samples a step trains, each exactly once per epoch, whoever trains them.

There is one permutation of the data set per epoch, a function of seed and epoch, and one cursor for the whole
group. The next global batch is the permutation from the cursor on, its last one smaller; the ranks take
consecutive slices of it, as long as the plan says. So the stream of samples depends neither on how batches
are split nor on how many ranks there are, and the cursor alone, a few numbers, is enough to go on at any
size. `cra_trainer.stream` does the same for data sets that can only be iterated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sized
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import TensorDataset, default_collate

from cra_trainer.allocation.shares import Ints

_WORD = 2**64 - 1


class MapDataset(Sized, Protocol):
    """A data set that gives the sample at an index; every rank can reach every sample."""

    def __getitem__(self, index: Any, /) -> Any: ...


@dataclass(frozen=True, kw_only=True)
class Cursor:
    """Where the group is: the next sample is number `index` of `epoch`.

    Attributes:
        step: Steps taken so far.
        samples: Samples trained so far, over all epochs.
        shard: Of a data set that is iterated: where in the epoch's order of shards the next sample's one is.
        offset: And which of that shard's samples is next.
    """

    epoch: int = 0
    index: int = 0
    step: int = 0
    samples: int = 0
    shard: int = 0
    offset: int = 0

    def advance(self, rows: int, *, shard: int = 0, offset: int = 0) -> Cursor:
        """After a step over `rows` samples."""
        return Cursor(
            epoch=self.epoch,
            index=self.index + rows,
            step=self.step + 1,
            samples=self.samples + rows,
            shard=shard,
            offset=offset,
        )

    def next_epoch(self) -> Cursor:
        """At the start of the epoch after this one."""
        return replace(self, epoch=self.epoch + 1, index=0, shard=0, offset=0)


def permutation(size: int, *, seed: int, epoch: int) -> Tensor:
    """The order of an epoch's samples, [size]; the same on every rank and at every world size."""
    generator = torch.Generator().manual_seed(mix(seed, epoch))
    return torch.randperm(size, generator=generator)


def mix(*numbers: int) -> int:
    """One 64-bit seed of several numbers, such that neighbours give unrelated seeds."""
    state = 0
    for number in numbers:
        # The finalizer of splitmix64 (Steele, Lea, Flood 2014), once per number.
        state = (state + number + 0x9E3779B97F4A7C15) & _WORD
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _WORD
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _WORD
        state ^= state >> 31
    return state


def slice_of(rows: Ints, rank: int) -> slice:
    """The part of a global batch that a rank trains, when rank i has rows[i]."""
    start = int(rows[:rank].sum())
    return slice(start, start + int(rows[rank]))


def fetch(dataset: MapDataset, indices: Tensor, collate: Callable[[list[Any]], Any] = default_collate) -> Any:
    """The samples at `indices` as one batch.

    Tensors are indexed as a whole; ``__getitems__`` is used where the data set has it; else sample by sample.
    """
    if isinstance(dataset, TensorDataset):
        return tuple(tensor[indices] for tensor in dataset.tensors)
    wanted: list[int] = indices.tolist()
    if hasattr(dataset, "__getitems__"):
        samples = dataset.__getitems__(wanted)
        return collate(samples)
    return collate([dataset[i] for i in wanted])


def to_device(batch: Any, device: torch.device) -> Any:
    """A batch with all its tensors on the device; lists, tuples and mappings keep their form."""
    if isinstance(batch, Tensor):
        if device.type == "cpu" and batch.device.type == "cpu":
            return batch
        return batch.to(device, non_blocking=True)
    if isinstance(batch, dict):
        return {key: to_device(value, device) for key, value in batch.items()}
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(to_device(value, device) for value in batch))
    if isinstance(batch, list | tuple):
        return type(batch)(to_device(value, device) for value in batch)
    return batch


def chunks(part: slice, size: int) -> Iterator[Tensor]:
    """Indices of a part of a data set, in order, at most `size` at a time."""
    for start in range(part.start, part.stop, size):
        yield torch.arange(start, min(start + size, part.stop))
