"""Where jobs land: everything that fits in sum finds room, and who need not move does not."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from cra_operator.controller.policy import Ints
from cra_simulator.placement import pack, spread

NODES = np.full(4, 4)
KIND = np.zeros(4, dtype=np.int64)


def placed(gpus: list[int], held: Ints, changed: list[int]) -> tuple[Ints, Ints]:
    held, moved = held.copy(), np.array(changed)
    assert pack(held, np.array(gpus), np.zeros(len(gpus), dtype=np.int64), moved, NODES, KIND)
    return held, moved


def test_parts_go_where_they_fit_best() -> None:
    held, _ = placed([2, 2, 1, 4], np.zeros((4, 4), dtype=np.int64), [1] * 4)
    assert sorted(held.sum(axis=0).tolist()) == [0, 1, 4, 4]
    assert (held > 0).sum(axis=1).tolist() == [1, 1, 1, 1]


def test_the_fewest_jobs_make_room_for_a_whole_node() -> None:
    before = np.array(
        [[1, 0, 0, 0], [0, 1, 0, 0], [0, 1, 0, 0], [0, 0, 4, 0], [0, 0, 0, 1], [0, 0, 0, 2], [0] * 4]
    )
    held, moved = placed([1, 1, 1, 4, 1, 2, 4], before, [0] * 6 + [1])
    assert moved.tolist() == [1, 0, 0, 0, 0, 0, 1]
    assert held[6].tolist() == [4, 0, 0, 0]


@settings(max_examples=25)
@given(st.data())
def test_there_is_always_room_and_nothing_is_shared(data: st.DataObject) -> None:
    jobs = data.draw(st.integers(1, 10))
    held = np.zeros((jobs, 4), dtype=np.int64)
    gpus = [0] * jobs
    for _ in range(4):
        wanted, left = [], 16
        for _ in range(jobs):
            wanted.append(data.draw(st.sampled_from([g for g in (0, 1, 2, 4, 8, 12) if g <= left])))
            left -= wanted[-1]
        before = held
        held, moved = placed(wanted, held, [int(a != b) for a, b in zip(gpus, wanted, strict=True)])
        gpus = wanted
        assert (held.sum(axis=0) <= 4).all()
        assert held.sum(axis=1).tolist() == wanted
        assert ((held > 0).sum(axis=1) == [-(-g // 4) for g in wanted]).all()
        assert (held[moved == 0] == before[moved == 0]).all()


def test_spreading_takes_from_the_freest_first() -> None:
    held = np.array([[3, 0, 0, 0], [0, 2, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
    gpus, changed = np.array([3, 2, 6, 3]), np.array([0, 0, 1, 1])
    assert spread(held, gpus, np.zeros(4, dtype=np.int64), changed, NODES, KIND, np.arange(4))
    assert held[2].tolist() == [0, 0, 4, 2]
    assert held[3].tolist() == [0, 2, 0, 1] or held[3].tolist() == [1, 2, 0, 0]


def test_spreading_says_when_there_is_no_room() -> None:
    held = np.zeros((1, 4), dtype=np.int64)
    one = np.ones(1, dtype=np.int64)
    assert not spread(held, one * 17, one * 0, one, NODES, KIND, np.arange(1))
