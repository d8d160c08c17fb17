"""What a job's status remembers of its speeds."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from cra_operator.api import MAX_SPEEDS, JobStatus, Speed, WorkerStatus
from cra_operator.controller.observation import Observation, Pace
from cra_operator.controller.speeds import learn
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
