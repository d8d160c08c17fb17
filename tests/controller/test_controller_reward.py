"""The reward is what a person computes from the raw series."""

from __future__ import annotations

import pytest

from cra_operator.api import Job, ObjectiveSpec, Speed, WorkerStatus
from cra_operator.controller.join import Watch, observe
from cra_operator.controller.observation import Observation, Pace
from cra_operator.controller.prometheus import Sample
from cra_operator.controller.reward import reward
from cra_operator.view import PodView
from cra_trainer.batching import Batching
from cra_trainer.config import Training
from cra_trainer.noise import ENOUGH, Gradients
from tests.operator.operator_world import START, make_job, make_pod


def value(
    step: float,
    gpus: int,
    *speeds: Speed,
    alpha: float = 1,
    beta: float = 1,
    busy: float | None = 1.0,
    batch: int = 64,
    noise: float | None = None,
    each: int = 1,
    kind: str = "A",
) -> float | None:
    seen = Observation(
        time=START,
        run=1,
        batch_size=batch,
        noise_scale=noise,
        utilization=busy,
        pace=Pace(pods=frozenset(), step_seconds=step),
    )
    count = gpus // each
    return reward(
        seen,
        objective=ObjectiveSpec(alpha=alpha, beta=beta),
        speeds=speeds,
        workers=[WorkerStatus(rank=rank, gpus=each, gpu_type=kind) for rank in range(count)],
        worker_gpus=each,
        base_batch=64,
    )


def measured(gpus: int, step: float, *, batch: int = 64, kind: str = "A") -> Speed:
    return Speed(gpus=gpus, nodes=1, gpu_type=kind, batch_size=batch, step_seconds=step)


ALONE = measured(1, 0.4)


def test_a_busy_worker_is_worth_alpha_and_beta() -> None:
    assert value(0.4, 1, ALONE, alpha=2, beta=3) == 5


def test_speed_earns_alpha_and_gpu_seconds_cost_beta() -> None:
    # Three times as fast on four GPUs: 3 alpha + 3/4 beta, of which 80 % of the time was worked.
    assert value(0.4 / 3, 4, ALONE, alpha=1, beta=2, busy=0.8) == pytest.approx(
        0.8 * (3 + 2 * 0.75), abs=1e-4
    )


def test_without_utilization_nothing_is_taken_off() -> None:
    assert value(0.4, 1, ALONE, busy=None) == 2


def test_a_larger_batch_counts_for_what_it_is_worth() -> None:
    # A batch of 128 at a noise scale of 64 is worth 2 * (64 + 64) / (64 + 128) = 4/3 own steps.
    assert value(0.4, 1, ALONE, batch=128, noise=64, beta=0) == pytest.approx(4 / 3, abs=1e-4)
    assert value(0.4, 1, ALONE, batch=128, beta=0) == 1


def test_progress_counts_as_the_trainer_counts_scale_invariant_steps() -> None:
    trainer = Batching(Training(batch_size=64, max_batch_size=512), world_size=2)
    # What two ranks measure of 256 rows whose gradients have variance 300 about a mean of norm 1.
    gradients = Gradients(parts=2, rows=256, local=1 + 2 * 300 / 256, whole=1 + 300 / 256)
    for _ in range(ENOUGH):
        trainer.observe(rows=256, gradients=gradients)
    before = trainer.progress
    for _ in range(10):
        trainer.observe(rows=256, gradients=gradients)
    rate = (trainer.progress - before) / (10 * 0.2)
    assert value(0.2, 1, ALONE, batch=256, noise=300, beta=0) == pytest.approx(rate * 0.4, abs=1e-4)


def test_workers_of_several_gpus_are_compared_with_one_of_them() -> None:
    assert value(0.2, 4, measured(2, 0.4), each=2) == pytest.approx(2 + 1)


def test_until_it_ran_on_one_worker_the_smallest_size_is_taken_to_scale() -> None:
    assert value(0.1, 4, measured(2, 0.2), measured(4, 0.1)) == pytest.approx(4 + 1)


def test_of_several_types_the_present_one_is_the_reference() -> None:
    speeds = (measured(1, 0.4), measured(1, 0.8, kind="B"))
    assert value(0.8, 1, *speeds, kind="B") == 2
    assert value(0.4, 1, *speeds, kind="C") == 2


def test_nothing_measured_is_no_reward() -> None:
    assert value(0.4, 1) is None


def series(metric: str, amount: float, rank: int = 0) -> Sample:
    pod = {"namespace": "default", "pod": f"digits-1-{rank}", "rank": str(rank)}
    return Sample(labels={"__name__": metric, **pod}, value=amount)


def raw(samples_per_second: float, busy: list[float]) -> list[Sample]:
    """What a person sees in Prometheus of so many ranks."""
    return [
        series("cra_trainer_samples_per_second", samples_per_second),
        series("cra_trainer_batch_size", 64),
        *(series("cra_trainer_world_size", len(busy), rank) for rank in range(len(busy))),
        *(series("DCGM_FI_DEV_GPU_UTIL", percent, rank) for rank, percent in enumerate(busy)),
    ]


def seen_in(samples: list[Sample], pods: list[PodView]) -> Observation:
    watch = Watch(pods=pods, steady=START)
    found = observe(
        {("default", "digits"): watch}, trainers=samples, gpus=samples, scrapes=[], now=START, stale_after=45
    )
    return found["default", "digits"]


def test_it_equals_what_a_person_computes_from_prometheus() -> None:
    alone, four = raw(160, [90]), raw(400, [80, 60, 70, 70])
    job: Job = make_job(objective={"alpha": 1.5, "beta": 0.5})
    pods = [make_pod(rank) for rank in range(4)]
    before, now = seen_in(alone, pods[:1]), seen_in(four, pods)
    assert before.pace is not None
    told = reward(
        now,
        objective=job.spec.objective,
        speeds=[measured(1, before.pace.step_seconds)],
        workers=[WorkerStatus(rank=rank, gpus=1, gpu_type="A") for rank in range(4)],
        worker_gpus=1,
        base_batch=64,
    )
    by_hand = (80 + 60 + 70 + 70) / 400 * (1.5 * 400 / 160 + 0.5 * (400 / 4) / 160)
    assert told == pytest.approx(by_hand, abs=1e-4)
