"""What a job's status remembers of its speeds."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from cra_operator.api import MAX_GPU_TYPES, MAX_SPEEDS, JobStatus, Speed, TypeSpeed, WorkerStatus
from cra_operator.controller.observation import Observation, Pace, WorkerSample
from cra_operator.controller.speeds import learn, learn_types
from tests.operator.operator_world import START


def workers(
    count: int = 2, *, node: str | None = "gpu-0", types: tuple[str, ...] = ("A100",)
) -> list[WorkerStatus]:
    return [
        WorkerStatus(rank=rank, pod=f"p{rank}", node=node, gpus=1, gpu_type=types[rank % len(types)])
        for rank in range(count)
    ]


def look(
    step: float | None = 0.4,
    compute: float | None = None,
    *,
    at: int = 0,
    count: int = 2,
    batch: int | None = 64,
) -> Observation:
    pods = frozenset(f"p{rank}" for rank in range(count))
    return Observation(
        time=START + timedelta(seconds=at),
        run=1,
        batch_size=batch,
        pace=None if step is None else Pace(pods=pods, step_seconds=step, compute_seconds=compute),
    )


def after(*looks: Observation, **place: Any) -> list[Speed]:
    speeds: list[Speed] = []
    for seen in looks:
        speeds = learn(speeds, seen, workers(**place), 64)
    return speeds


def test_a_first_look_is_taken_as_it_is() -> None:
    (speed,) = after(look(0.4, 0.3))
    assert speed == Speed(
        gpus=2, nodes=1, gpu_type="A100", batch_size=64, step_seconds=0.4, compute_seconds=0.3, time=START
    )


def test_later_ones_move_it_by_a_fifth_in_the_logarithm() -> None:
    (speed,) = after(look(0.4), look(0.44, at=1))
    assert speed.step_seconds == pytest.approx(0.4 * (0.44 / 0.4) ** 0.2, rel=1e-3)
    assert speed.time == START + timedelta(seconds=1)


def test_a_hiccup_moves_it_by_no_more_than_a_tenth() -> None:
    assert after(look(0.4), look(40.0, at=1))[0].step_seconds == pytest.approx(0.44)
    assert after(look(0.4), look(0.004, at=1))[0].step_seconds == pytest.approx(0.4 / 1.1, rel=1e-3)


def test_a_speed_that_has_really_changed_is_followed() -> None:
    (speed,) = after(look(0.4), *(look(0.8, at=n) for n in range(1, 40)))
    assert speed.step_seconds == pytest.approx(0.8, rel=0.01)


def test_one_look_counts_once() -> None:
    again = look(0.5, at=1)
    assert after(look(0.4), again) == after(look(0.4), again, again, again)


def test_the_computing_part_moves_with_its_step() -> None:
    (speed,) = after(look(0.4, 0.4), look(0.4, 0.2, at=1))
    assert speed.compute_seconds == pytest.approx(0.4 * 0.9)
    (speed,) = after(look(0.4, 0.2), look(0.4, at=1))
    assert speed.compute_seconds == pytest.approx(0.2)


def test_each_size_type_and_batch_has_its_own() -> None:
    a, b = ("A",), ("B",)
    places = [(1, a, 64), (2, a, 64), (2, b, 64), (2, (*a, *b), 64), (2, a, 128)]
    speeds: list[Speed] = []
    for at, (count, types, batch) in enumerate(places):
        speeds = learn(speeds, look(0.4, at=at, count=count, batch=batch), workers(count, types=types), 64)
    told = [(speed.gpus, speed.gpu_type, speed.batch_size) for speed in speeds]
    assert told == [(1, "A", 64), (2, None, 64), (2, "A", 64), (2, "A", 128), (2, "B", 64)]


def test_batches_that_are_nearly_alike_share_one() -> None:
    (speed,) = after(look(0.4, batch=100), look(0.4, at=1, batch=105))
    assert speed.batch_size == 105


def test_without_a_batch_the_specs_counts() -> None:
    assert after(look(batch=None))[0].batch_size == 64


@pytest.mark.parametrize(
    ("seen", "place"),
    [
        (look(None), {}),
        (look(count=3), {}),
        (look(), {"node": None}),
        (look(count=0), {"count": 0}),
    ],
    ids=["changing", "other-workers", "not-placed", "nobody"],
)
def test_what_is_not_about_the_present_workers_is_not_learnt(
    seen: Observation, place: dict[str, Any]
) -> None:
    assert after(seen, **place) == []


def test_a_new_size_is_kept_and_the_oldest_of_the_most_measured_one_goes() -> None:
    speeds: list[Speed] = []
    for n in range(MAX_SPEEDS):
        count = 1 if n == 0 else 2
        speeds = learn(speeds, look(at=n, count=count, batch=2**n), workers(count), 64)
    speeds = learn(speeds, look(at=100, count=3), workers(3), 64)
    assert len(speeds) == MAX_SPEEDS
    assert {speed.gpus for speed in speeds} == {1, 2, 3}
    assert 2 not in {speed.batch_size for speed in speeds if speed.gpus == 2}


def test_they_survive_the_way_through_the_api_server() -> None:
    speeds = after(look(0.4, 0.3), look(0.5, at=3))
    status = JobStatus(speeds=speeds)
    assert JobStatus.model_validate(status.wire()).speeds == speeds


def computing(*capability: float | None, at: int = 0) -> Observation:
    """A look at workers that were measured to compute so many samples a second."""
    seen = look(at=at, count=len(capability))
    return replace(
        seen, workers={f"p{rank}": WorkerSample(capability=c) for rank, c in enumerate(capability)}
    )


def types_after(*looks: Observation, types: tuple[str, ...], each: int = 1) -> list[TypeSpeed]:
    known: list[TypeSpeed] = []
    for seen in looks:
        those = [w.model_copy(update={"gpus": each}) for w in workers(len(seen.workers), types=types)]
        known = learn_types(known, seen, those)
    return known


def test_a_job_on_several_types_teaches_what_a_gpu_of_each_is_worth() -> None:
    known = types_after(computing(200, 90, 210, 100), types=("A100", "T4"), each=2)
    assert [(one.gpu_type, one.samples_per_second) for one in known] == [("A100", 105), ("T4", 50)]
    assert JobStatus.model_validate(JobStatus(gpu_types=known).wire()).gpu_types == known


def test_a_worker_that_is_slow_by_itself_does_not_speak_for_its_type() -> None:
    (known,) = types_after(computing(100, 12, 100), types=("A100",))
    assert known.samples_per_second == 100


def test_what_a_type_is_worth_follows_slowly_and_one_look_counts_once() -> None:
    first, later = computing(100), computing(150, at=1)
    (known,) = types_after(first, later, later, types=("A100",))
    assert known.samples_per_second == pytest.approx(100 * 1.5**0.2, rel=1e-3)
    half = replace(first, time=first.time + timedelta(milliseconds=300))
    assert types_after(half, half, types=("A100",))[0].samples_per_second == 100


def test_nothing_is_learnt_of_types_without_measurements_or_of_other_workers() -> None:
    assert types_after(computing(None, None), types=("A100",)) == []
    assert learn_types([], computing(100, 100), workers(3)) == []
    assert learn_types([], replace(computing(100), pace=None), workers(1)) == []
    assert learn_types([], computing(100), [WorkerStatus(rank=0, pod="p0", node="n", gpus=1)]) == []


def test_of_too_many_types_those_seen_longest_ago_go() -> None:
    looks = [(computing(100, at=at), f"type-{9 - at}") for at in range(MAX_GPU_TYPES + 1)]
    known: list[TypeSpeed] = []
    for seen, kind in looks:
        known = learn_types(known, seen, workers(1, types=(kind,)))
    assert [one.gpu_type for one in known] == [f"type-{n}" for n in range(1, 9)]
