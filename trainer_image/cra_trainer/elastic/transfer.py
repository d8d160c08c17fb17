"""A live rank's state, handed to ranks that need it.

The state goes as it is, tensor by tensor, without a file and without a copy of the whole: a skeleton first,
in which every tensor is a number, then the tensors. Small ones travel together. Several newcomers are served
by several ranks at once; where one rank serves all others it broadcasts.

Where ranks hold a part each (`cra_trainer.shards`), rank 0 spreads the whole over all of them, and no rank
ever holds more of it than one tensor and its own parts.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

from cra_trainer.checkpoint import State
from cra_trainer.elastic.group import Group

_SMALL = 1 << 16
_TENSOR = "\0tensor"

Move = Callable[[Tensor], None]
Place = Callable[[tuple[Any, ...], Tensor], Any]


def exchange(group: Group, state: Callable[[], State], restore: Callable[[State], None]) -> None:
    """Bring all ranks of a new group to the state of those that are furthest.

    Args:
        group: The group; its plan says who holds what.
        state: Gives this rank's state, its tensors not copied.
        restore: Takes a state over.
    """
    sources, receivers = group.plan.sources, group.plan.receivers
    if not receivers:
        return
    if len(sources) == 1 and len(receivers) > 1:
        first = sources[0]
        if group.rank == first:
            _give(state(), group.device, lambda tensor: _done(dist.broadcast(tensor, src=first)))
        else:
            restore(_take(group.device, lambda tensor: _done(dist.broadcast(tensor, src=first))))
    elif group.rank in sources:
        mine = receivers[sources.index(group.rank) :: len(sources)]
        for receiver in mine:
            _give(state(), group.device, lambda tensor, to=receiver: dist.send(tensor, dst=to))  # type: ignore[misc]
    else:
        source = sources[receivers.index(group.rank) % len(sources)]
        restore(_take(group.device, lambda tensor: _done(dist.recv(tensor, src=source))))


def spread(group: Group, state: Callable[[], State], place: Place) -> State:
    """Rank 0's state for every rank, itself too, of which each keeps what it has a place for.

    Args:
        group: The group.
        state: Gives rank 0's state; not called elsewhere.
        place: Gets a tensor of the state, on the group's device, and the keys that lead to it; returns what
            stands there in the result.
    """
    device, tensors = group.device, list[Tensor]()
    head, size = torch.empty(0, dtype=torch.uint8), torch.zeros(1, dtype=torch.int64)
    if group.rank == 0:
        head = _head(state(), tensors)
        size.fill_(len(head))
    dist.broadcast(size, src=0)
    head = head if group.rank == 0 else torch.empty(int(size), dtype=torch.uint8)
    dist.broadcast(head, src=0)
    told = torch.load(io.BytesIO(head.numpy().tobytes()), weights_only=True)

    def receive(i: int, path: tuple[Any, ...]) -> Any:
        dtype, shape, _ = told["shapes"][i]
        if group.rank == 0:
            tensor = tensors[i].to(device).contiguous()
        else:
            tensor = torch.empty(shape, dtype=getattr(torch, dtype), device=device)
        if tensor.numel():
            dist.broadcast(tensor, src=0)
        return place(path, tensor)

    mine: State = _fill(told["skeleton"], receive)
    return mine


def _done(_: object) -> None:
    """A collective has returned."""


def _give(state: State, device: torch.device, move: Move) -> None:
    tensors: list[Tensor] = []
    head = _head(state, tensors)
    move(torch.tensor([len(head)]))
    move(head)
    for batch in _batches(tensors):
        if len(batch) == 1:
            move(batch[0].contiguous())
        else:
            move(torch.cat([tensor.reshape(-1) for tensor in batch]))


def _head(state: State, tensors: list[Tensor]) -> Tensor:
    """What comes before the tensors, as bytes; the tensors are added to the list in their order."""
    skeleton = _replace(state, lambda tensor: (_TENSOR, _note(tensors, tensor)))
    shapes = [(str(t.dtype).removeprefix("torch."), tuple(t.shape), t.device.type) for t in tensors]
    buffer = io.BytesIO()
    torch.save({"skeleton": skeleton, "shapes": shapes}, buffer)
    return torch.frombuffer(bytearray(buffer.getbuffer()), dtype=torch.uint8)


def _take(device: torch.device, move: Move) -> State:
    size = torch.zeros(1, dtype=torch.int64)
    move(size)
    head = torch.empty(int(size), dtype=torch.uint8)
    move(head)
    told = torch.load(io.BytesIO(head.numpy().tobytes()), weights_only=True)
    tensors = [
        torch.empty(shape, dtype=getattr(torch, dtype), device=device if kind == device.type else "cpu")
        for dtype, shape, kind in told["shapes"]
    ]
    for batch in _batches(tensors):
        if len(batch) == 1:
            move(batch[0])
            continue
        together = torch.cat([tensor.reshape(-1) for tensor in batch])
        move(together)
        for tensor, part in zip(batch, torch.split(together, [t.numel() for t in batch]), strict=True):
            tensor.copy_(part.view(tensor.shape))
    state: State = _fill(told["skeleton"], lambda i, _: tensors[i])
    return state


def _note(tensors: list[Tensor], tensor: Tensor) -> int:
    tensors.append(tensor.detach())
    return len(tensors) - 1


def _batches(tensors: list[Tensor]) -> Iterator[list[Tensor]]:
    """Each large tensor alone, small ones of a kind together; the same on both ends."""
    small: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {}
    for tensor in tensors:
        if tensor.numel() * tensor.element_size() > _SMALL:
            yield [tensor]
        elif tensor.numel():
            small.setdefault((tensor.dtype, tensor.device), []).append(tensor)
    yield from small.values()


def _replace(value: Any, change: Callable[[Tensor], Any]) -> Any:
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, dict):
        return type(value)((key, _replace(item, change)) for key, item in value.items())
    if isinstance(value, list | tuple):
        return type(value)(_replace(item, change) for item in value)
    return value


def _fill(value: Any, tensor: Callable[[int, tuple[Any, ...]], Any], path: tuple[Any, ...] = ()) -> Any:
    if isinstance(value, tuple) and len(value) == 2 and value[0] == _TENSOR:
        return tensor(value[1], path)
    if isinstance(value, dict):
        return type(value)((key, _fill(item, tensor, (*path, key))) for key, item in value.items())
    if isinstance(value, list | tuple):
        return type(value)(_fill(item, tensor, (*path, i)) for i, item in enumerate(value))
    return value
