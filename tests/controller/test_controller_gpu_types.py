"""What types of GPU are worth to jobs, and which new workers should be on."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cra_operator.api import Job, JobKey, JobStatus
from cra_operator.controller.gpu_types import Growth, Want, completed, growths, prefer, worth_of
from tests.operator.operator_world import make_job, make_node

NODES = [make_node("a"), make_node("t", gpu_type="T4")]
AT = {node.name: node for node in NODES}
SHARED = {"a": 8, "t": 8}


def knows(name: str, *types: str, template: dict[str, Any] | None = None, **speeds: float) -> Job:
    """A job that computes so much on one GPU of each type, and trains on one worker on each of these."""
    status = {
        "gpuTypes": [{"gpuType": kind, "samplesPerSecond": speed} for kind, speed in speeds.items()],
        "workers": [{"rank": rank, "gpus": 1, "gpuType": kind} for rank, kind in enumerate(types)],
    }
    spec: dict[str, Any] = {} if template is None else {"template": template}
    job = make_job(name, **spec)
    return job.model_copy(update={"status": JobStatus.model_validate(status)})


def key(name: str) -> JobKey:
    return "default", name


def ratio(job: Job, *others: Job) -> float:
    """How many times as fast as a T4 an A100 is for the first of these jobs."""
    worth = worth_of([job, *others], NODES)[job.key]
    return worth["A100"] / worth["T4"]


def test_what_a_job_measured_itself_is_what_it_is_worth() -> None:
    job, other = knows("a", A100=300, T4=100), knows("b", A100=500, T4=400)
    assert worth_of([job, other], NODES)[job.key] == pytest.approx({"A100": 300, "T4": 100})


def test_a_job_that_knows_one_type_expects_what_others_found() -> None:
    others = [knows("b", A100=200, T4=100), knows("c", A100=80, T4=10)]
    assert ratio(knows("a", T4=7), *others) == pytest.approx(4)
    assert ratio(knows("a", A100=7), *others) == pytest.approx(4)
    assert ratio(knows("a"), *others) == pytest.approx(4)


def test_types_that_nobody_compared_are_alike() -> None:
    assert ratio(knows("a", A100=300), knows("b", T4=10)) == pytest.approx(1)
    assert ratio(knows("a")) == pytest.approx(1)


def test_types_are_compared_by_way_of_a_third() -> None:
    log = np.log([[8, 4, np.nan], [np.nan, 6, 3], [np.nan, np.nan, 5]])
    assert np.exp(completed(log)) == pytest.approx(np.array([[8, 4, 2], [12, 6, 3], [20, 10, 5]]))


@given(st.data())
def test_what_is_a_product_of_job_and_type_is_recovered_once_types_are_joined(data: st.DataObject) -> None:
    factor = st.floats(-3, 3)
    jobs, types = data.draw(st.lists(factor, min_size=1, max_size=6)), data.draw(st.lists(factor, min_size=2))
    whole = np.add.outer(jobs, types)
    gaps = st.lists(st.booleans(), min_size=whole.size, max_size=whole.size)
    known = np.array(data.draw(gaps)).reshape(whole.shape)
    known[0] = True  # one job knows them all
    table = np.where(known, whole, np.nan)
    at_all = known.any(axis=1)
    assert completed(table)[at_all] == pytest.approx(whole[at_all], abs=1e-6)


def test_on_one_type_of_gpu_there_is_nothing_to_choose() -> None:
    job = knows("a", A100=300, T4=100)
    assert worth_of([job], [make_node(), make_node("b"), make_node("cpu", 0, gpu_type="")]) == {}
    assert worth_of([job], [make_node(), make_node("unlabelled", gpu_type="")]) == {}


def more(*jobs: Job) -> dict[JobKey, Growth]:
    return growths(jobs, worth_of(jobs, NODES), AT, SHARED)


def test_more_gpus_are_worth_what_those_are_that_a_job_might_get() -> None:
    fast = knows("fast", "A100", "A100", A100=200, T4=100)
    slow = knows("slow", "T4", A100=200, T4=100)
    mixed = knows("mixed", "A100", "T4", A100=200, T4=100)
    found = more(fast, slow, mixed)
    assert found[fast.key] == Growth(held=2, factor=float(f"{(6 * 200 + 8 * 100) / 14 / 200:.2g}"))
    assert found[slow.key] == Growth(held=1, factor=float(f"{(8 * 200 + 7 * 100) / 15 / 100:.2g}"))
    assert mixed.key not in found, "of both it has what it would get"


def test_a_job_that_may_only_use_one_type_grows_on_that() -> None:
    pod = {"spec": {"containers": [], "nodeSelector": {"only": "a"}}}
    nodes = [make_node("a", labels={"only": "a"}), NODES[1]]
    job = knows("a", "A100", A100=200, T4=100, template=pod)
    worth = worth_of([job], nodes)
    assert growths([job], worth, {node.name: node for node in nodes}, SHARED) == {}
    assert growths([job], worth, AT, SHARED) == {}, "no node admits it"


def test_nothing_is_said_of_workers_on_unknown_types_or_of_jobs_without_any() -> None:
    assert more(knows("a", A100=200, T4=100), knows("b", "A100", "K80", A100=200, T4=100)) == {}


def want(gpus: int = 2, priority: int = 0, **worth: float) -> Want:
    return Want(priority=priority, gpus=gpus, worth=worth)


def chosen(free: dict[str, int], **wants: Want) -> dict[str, str]:
    found = prefer({key(name): one for name, one in wants.items()}, free)
    return {name: preference.gpu_type for (_, name), preference in found.items()}


def test_new_workers_prefer_the_type_that_is_faster_for_them_and_say_by_how_much() -> None:
    found = prefer({key("a"): want(A100=210, T4=100)}, {"A100": 8, "T4": 8})
    assert found[key("a")].gpu_type == "A100"
    assert found[key("a")].message == "new workers prefer A100, 2.1 times as fast for it as T4"


def test_who_gains_most_by_the_fast_type_gets_it_and_others_leave_it() -> None:
    wants = {"a": want(A100=150, T4=100), "b": want(A100=400, T4=100), "c": want(A100=200, T4=100)}
    assert chosen({"A100": 4, "T4": 4}, **wants) == {"b": "A100", "c": "A100", "a": "T4"}
    found = prefer({key(name): one for name, one in wants.items()}, {"A100": 4, "T4": 4})
    assert found[key("a")].message == "new workers leave A100 to jobs that gain more by it"


def test_a_type_may_be_the_faster_one_for_some_only() -> None:
    assert chosen({"A100": 8, "T4": 8}, a=want(A100=200, T4=100), b=want(A100=51, T4=100)) == {
        "a": "A100",
        "b": "T4",
    }


def test_the_more_important_job_chooses_first() -> None:
    wants = {"low": want(A100=900, T4=100), "high": want(priority=5, A100=150, T4=100)}
    assert chosen({"A100": 2, "T4": 4}, **wants) == {"high": "A100", "low": "T4"}


def test_a_job_to_which_types_are_alike_leaves_the_better_ones_only_if_somebody_wants_them() -> None:
    assert chosen({"A100": 2, "T4": 4}, a=want(A100=105, T4=100)) == {}
    assert chosen({"A100": 2, "T4": 4}, a=want(A100=105, T4=100), b=want(A100=200, T4=100)) == {
        "a": "T4",
        "b": "A100",
    }


WANTS = st.dictionaries(
    st.sampled_from("abcde"),
    st.builds(
        Want,
        priority=st.integers(0, 2),
        gpus=st.integers(1, 6),
        worth=st.dictionaries(st.sampled_from(["A100", "T4", "V100"]), st.floats(0.1, 1000)),
    ),
)


@given(WANTS, st.dictionaries(st.sampled_from(["A100", "T4", "V100", ""]), st.integers(0, 8)))
def test_a_type_is_preferred_only_if_it_is_free_and_the_job_may_use_it(
    wants: dict[str, Want], free: dict[str, int]
) -> None:
    for name, kind in chosen(free, **wants).items():
        assert kind in wants[name].worth
        assert free[kind] > 0
        assert sum(free.get(other, 0) > 0 for other in wants[name].worth) > 1, "there is a choice"


def test_where_only_one_type_is_free_there_is_no_choice() -> None:
    assert chosen({"T4": 4}, a=want(A100=200, T4=100)) == {}
    assert chosen({"A100": 4, "T4": 4}, a=want(T4=100)) == {}
    assert chosen({"A100": 0, "T4": 0}, a=want(A100=200, T4=100)) == {}


def test_workers_for_whom_the_best_type_has_no_more_room_count_on_the_next() -> None:
    wants = {"a": want(6, A100=400, T4=100), "b": want(2, A100=200, T4=100, V100=60)}
    assert chosen({"A100": 4, "T4": 2, "V100": 8}, **wants) == {"a": "A100", "b": "V100"}


def test_the_regret_decides_and_not_the_speed() -> None:
    wants = {"big": want(A100=1000, T4=900), "small": want(A100=10, T4=5)}
    assert chosen({"A100": 2, "T4": 2}, **wants) == {"small": "A100", "big": "T4"}
    assert math.log(1000 / 900) < math.log(10 / 5)
