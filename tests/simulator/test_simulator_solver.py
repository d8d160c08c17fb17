"""The solver finds what trying everything finds, in both of its forms."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cra_operator.controller.policy import Floats, Ints, Sizes
from cra_operator.controller.solver import solve
from cra_simulator.compiled import knapsack

worth = st.one_of(st.just(-np.inf), st.integers(-20, 20).map(float))


def sizes_of(gpus: list[int], kind: list[int]) -> Sizes:
    return Sizes(gpus=np.array([0, *gpus]), nodes=np.array([0, *gpus]), kind=np.array([0, *kind]))


@st.composite
def problems(draw: st.DrawFn, types: int) -> tuple[Floats, Sizes, Ints]:
    count = draw(st.integers(1, 3))
    gpus = sorted(draw(st.lists(st.integers(1, 5), min_size=count, max_size=count)))
    kind = draw(st.lists(st.integers(0, types - 1), min_size=count, max_size=count))
    jobs = draw(st.integers(1, 4))
    value = draw(
        st.lists(st.lists(worth, min_size=count + 1, max_size=count + 1), min_size=jobs, max_size=jobs)
    )
    capacity = draw(st.lists(st.integers(0, 8), min_size=types, max_size=types))
    return np.array(value), sizes_of(gpus, kind), np.array(capacity)


def best_of_all(value: Floats, sizes: Sizes, capacity: Ints) -> float:
    best = -np.inf
    for choice in itertools.product(range(len(sizes)), repeat=len(value)):
        if (used(np.array(choice), sizes, len(capacity)) <= capacity).all():
            best = max(best, sum(value[j, k] for j, k in enumerate(choice)))
    return best


def used(choice: Ints, sizes: Sizes, types: int) -> Ints:
    return np.bincount(sizes.kind[choice], weights=sizes.gpus[choice], minlength=types).astype(np.int64)


@pytest.mark.parametrize("types", [1, 2, 3])
@settings(max_examples=25)
@given(data=st.data())
def test_nothing_is_better(types: int, data: st.DataObject) -> None:
    value, sizes, capacity = data.draw(problems(types))
    best = best_of_all(value, sizes, capacity)
    if best == -np.inf:
        with pytest.raises(ValueError, match="fits"):
            solve(value, sizes, capacity)
        return
    choice = solve(value, sizes, capacity)
    assert (used(choice, sizes, types) <= capacity).all()
    assert sum(value[j, k] for j, k in enumerate(choice)) == best


@settings(max_examples=25)
@given(problems(1))
def test_the_compiled_form_answers_the_same(problem: tuple[Floats, Sizes, Ints]) -> None:
    value, sizes, capacity = problem
    compiled = knapsack(value, sizes.gpus, int(capacity[0]))
    if (compiled < 0).any():
        with pytest.raises(ValueError, match="fits"):
            solve(value, sizes, capacity)
    else:
        assert compiled.tolist() == solve(value, sizes, capacity).tolist()


@settings(max_examples=30)
@given(st.integers(1, 40), st.integers(1, 120), st.integers(0, 2**32 - 1))
def test_ruling_out_columns_loses_nothing(jobs: int, capacity: int, seed: int) -> None:
    """On utilities such as policies have, of which most columns are ruled out before the table is made."""
    random = np.random.default_rng(seed)
    sizes = sizes_of([1, 2, *range(4, 65, 4)], [0] * 18)
    gain = random.uniform(0.01, 3, (jobs, 1)) * sizes.gpus ** random.uniform(0.1, 1.1, (jobs, 1))
    value = np.where(random.random(gain.shape) < 0.1, -np.inf, gain * random.uniform(0.9, 1, gain.shape))
    value[:, 0] = 0
    found = solve(value, sizes, np.array([capacity]))
    known = knapsack(value, sizes.gpus, capacity)
    rows = np.arange(jobs)
    assert sizes.gpus[found].sum() <= capacity
    assert value[rows, found].sum() == pytest.approx(value[rows, known].sum(), rel=1e-12)
