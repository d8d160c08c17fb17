"""Observing: samples are joined to jobs by pod, and missing metrics are an observation too."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from cra_operator.controller.join import Watch, observe
from cra_operator.controller.observation import Observation
from cra_operator.controller.prometheus import Sample
from cra_operator.view import PodView
from tests.operator.operator_world import START, make_pod
from tests.operator.samples import KEY, PACE, PODS, trainer


def gpu(percent: float, pod: str = "digits-1-0", **labels: str) -> Sample:
    base = {"__name__": "DCGM_FI_DEV_GPU_UTIL", "namespace": "default", "pod": pod}
    return Sample(labels={**base, **labels}, value=percent)


def scraped(ago: float, rank: int = 0) -> Sample:
    """What `timestamp()` tells of a pod; Prometheus' clock is an hour ahead of ours."""
    clock = (START + timedelta(hours=1)).timestamp()
    return Sample(labels={"namespace": "default", "pod": f"digits-1-{rank}"}, value=clock - ago, time=clock)


def look(
    trainers: list[Sample],
    gpus: list[Sample] | None = None,
    scrapes: list[Sample] | None = None,
    *,
    pods: Sequence[PodView] = PODS,
    steady: datetime | None = START,
    now: datetime = START,
) -> Observation:
    return observe(
        {KEY: Watch(pods=pods, steady=steady)},
        trainers=trainers,
        gpus=gpus or [],
        scrapes=scrapes or [],
        now=now,
        stale_after=45,
    )[KEY]


def test_rank_zero_tells_the_progress_and_every_rank_its_part() -> None:
    seen = look(
        [
            trainer("progress_ratio", 0.25),
            trainer("epoch", 2),
            trainer("epochs", 8),
            trainer("step", 46),
            trainer("loss", 0.7),
            trainer("eta_seconds", 30),
            trainer("samples_per_second", 800),
            trainer("trained_samples", 1500),
            trainer("scale_invariant_steps", 31.5),
            trainer("share_ratio", 0.6),
            trainer("share_ratio", 0.4, rank=1),
            trainer("performance", 480),
            trainer("capability_samples_per_second", 520),
            trainer("checkpoint_step", 40),
            trainer("checkpoint_timestamp_seconds", START.timestamp()),
        ]
    )
    assert seen.available
    progress = seen.progress
    assert progress is not None
    assert (progress.epoch, progress.epochs, progress.step, progress.samples) == (2, 8, 46, 1500)
    assert (progress.ratio, progress.loss, progress.eta_seconds) == (0.25, 0.7, 30)
    assert progress.scale_invariant_steps == 31.5
    assert {pod: worker.share for pod, worker in seen.workers.items()} == {
        "digits-1-0": 0.6,
        "digits-1-1": 0.4,
    }
    assert (seen.workers["digits-1-0"].performance, seen.workers["digits-1-0"].capability) == (480, 520)
    assert seen.checkpoint is not None
    assert (seen.checkpoint.step, seen.checkpoint.time) == (40, START)


def test_a_pod_of_several_ranks_is_their_sum() -> None:
    seen = look([trainer("share_ratio", 0.2), trainer("share_ratio", 0.3, rank=0, local="1")])
    assert seen.workers["digits-1-0"].share == pytest.approx(0.5)


def test_the_pause_is_rank_zeros() -> None:
    ranks = [trainer("pause_seconds", 0.3), trainer("pause_seconds", 7.0, local="1", rank=0)]
    ranks[1] = Sample(labels={**ranks[1].labels, "rank": "1"}, value=7.0)
    assert look(ranks).pause_seconds == look(ranks[::-1]).pause_seconds == 0.3
    assert look([trainer("step", 1)]).pause_seconds is None


def test_utilization_is_the_mean_of_the_jobs_gpus() -> None:
    gpus = [gpu(90), gpu(70, "digits-1-1"), gpu(5, "other-1-0"), gpu(1, namespace="elsewhere")]
    assert look([trainer("step", 1)], gpus).utilization == 0.8


def test_an_exporter_whose_labels_lost_is_understood() -> None:
    shadowed = gpu(60, pod="dcgm-exporter-x", exported_pod="digits-1-0", exported_namespace="default")
    assert look([trainer("step", 1)], [shadowed]).utilization == 0.6


def test_the_most_telling_metric_of_each_gpu_counts() -> None:
    def named(name: str, value: float, uuid: str) -> Sample:
        return gpu(value, __name__=name, UUID=uuid)

    gpus = [
        named("DCGM_FI_DEV_GPU_UTIL", 99, "a"),
        named("DCGM_FI_PROF_GR_ENGINE_ACTIVE", 0.9, "a"),
        named("DCGM_FI_PROF_SM_ACTIVE", 0.4, "a"),
        named("DCGM_FI_PROF_GR_ENGINE_ACTIVE", 0.6, "b"),
        named("DCGM_FI_DEV_GPU_UTIL", 100, "b"),
        named("DCGM_FI_PROF_SM_ACTIVE", float("nan"), "b"),
    ]
    assert look([trainer("step", 1)], gpus).utilization == pytest.approx(0.5)
    assert look([trainer("step", 1)], gpus[::-1]).utilization == pytest.approx(0.5)


def test_instances_of_one_gpu_count_each() -> None:
    gpus = [gpu(90, UUID="a", GPU_I_ID="1"), gpu(30, UUID="a", GPU_I_ID="2")]
    assert look([trainer("step", 1)], gpus).utilization == pytest.approx(0.6)


def test_the_hosts_name_does_not_matter() -> None:
    gpus = [gpu(90, UUID="a", Hostname="x"), gpu(90, UUID="a", hostname="x"), gpu(30, "digits-1-1", UUID="b")]
    assert look([trainer("step", 1)], gpus).utilization == pytest.approx(0.6)


# --- fresh, stale, steady -----------------------------------------------------------------------------------


def test_stale_samples_are_no_samples_and_say_so() -> None:
    seen = look([trainer("step", 7), *PACE], scrapes=[scraped(46, 0), scraped(46, 1)])
    assert (seen.available, seen.reason) == (False, "Stale")
    assert "45 s" in seen.message
    assert look([trainer("step", 7)], scrapes=[scraped(44)]).available


def test_a_pod_that_is_scraped_no_more_drops_out_alone() -> None:
    shares = [trainer("share_ratio", 0.5), trainer("share_ratio", 0.5, rank=1)]
    assert list(look(shares, scrapes=[scraped(1, 0), scraped(300, 1)]).workers) == ["digits-1-0"]


def test_the_pace_is_the_batch_over_the_samples_of_all_ranks() -> None:
    pace = look(PACE).pace
    assert pace is not None
    assert pace.step_seconds == pytest.approx(0.4)
    assert pace.compute_seconds is None


def test_without_samples_per_second_the_last_step_is_the_pace() -> None:
    pace = look([trainer("step_seconds", 0.7), *PACE[2:]]).pace
    assert pace is not None
    assert pace.step_seconds == 0.7


def test_the_rank_that_waits_least_tells_what_the_reduction_costs() -> None:
    split = [
        trainer("compute_seconds", 0.3),
        trainer("communication_seconds", 0.1),
        trainer("compute_seconds", 0.1, rank=1),
        trainer("communication_seconds", 0.3, rank=1),
    ]
    pace = look([*split, *PACE]).pace
    assert pace is not None
    assert pace.compute_seconds == pytest.approx(0.4 * 0.3 / (0.3 + 0.1))


def test_a_scrape_from_before_the_job_was_steady_tells_no_pace() -> None:
    def pace(ago: float) -> object:
        now = START + timedelta(seconds=60)
        return look(
            PACE, scrapes=[scraped(ago, 0), scraped(ago, 1)], steady=now - timedelta(seconds=5), now=now
        ).pace

    assert pace(6) is None
    assert pace(4) is not None


def test_a_job_that_changes_has_no_pace() -> None:
    assert look(PACE, steady=None).pace is None


def test_a_group_whose_shares_have_not_settled_has_no_pace() -> None:
    assert look([*PACE, trainer("settled", 0)]).pace is None
    assert look([*PACE, trainer("settled", 1)]).pace is not None


@pytest.mark.parametrize("known", ["world_size", "pods"])
def test_a_group_that_is_not_seen_whole_has_no_pace(known: str) -> None:
    of_three = [replace(sample, value=3.0) if "world" in sample.name else sample for sample in PACE]
    seen = look(of_three) if known == "world_size" else look(PACE, pods=[*PODS, make_pod(2)])
    assert seen.available
    assert seen.pace is None


def test_a_script_with_series_of_its_own_needs_only_those_of_rank_zero() -> None:
    pace = look([trainer("samples_per_second", 160), trainer("batch_size", 64)]).pace
    assert pace is not None
    assert pace.pods == {"digits-1-0", "digits-1-1"}
    assert look([trainer("samples_per_second", 160, rank=1), trainer("batch_size", 64, rank=1)]).pace is None


def test_batch_and_noise_are_rank_zeros() -> None:
    seen = look([trainer("batch_size", 128), trainer("noise_scale", 812.5)])
    assert (seen.batch_size, seen.noise_scale) == (128, 812.5)


def test_no_samples_is_an_observation() -> None:
    seen = look([], [gpu(50)])
    assert (seen.available, seen.reason) == (False, "NoSamples")


def test_values_that_are_no_numbers_are_left_out() -> None:
    seen = look([trainer("step", 7), trainer("loss", float("nan")), trainer("eta_seconds", float("inf"))])
    assert seen.progress is not None
    assert (seen.progress.step, seen.progress.loss, seen.progress.eta_seconds) == (7, None, None)


@pytest.mark.parametrize(("samples", "failing"), [([1.0], True), ([0.0], False), ([], False)])
def test_rank_zero_tells_whether_checkpoints_fail(samples: list[float], failing: bool) -> None:
    seen = look([trainer("step", 1), *(trainer("checkpoint_failing", value) for value in samples)])
    assert seen.checkpoint_failing is failing


def test_a_rank_that_is_slow_for_good_makes_its_pod_a_straggler() -> None:
    seen = look([trainer("straggler", 1.0), trainer("share_ratio", 0.5)])
    assert [worker.straggler for worker in seen.workers.values()] == [True]
    seen = look([trainer("straggler", 0.0), trainer("share_ratio", 0.5)])
    assert [worker.straggler for worker in seen.workers.values()] == [False]


def test_no_checkpoint_yet_is_none() -> None:
    seen = look(
        [trainer("step", 1), trainer("checkpoint_step", 0), trainer("checkpoint_timestamp_seconds", 0)]
    )
    assert seen.checkpoint is None


def test_two_looks_that_see_the_same_are_equal() -> None:
    one = look([trainer("step", 1)])
    later = look([trainer("step", 1)], now=START.replace(year=2027))
    assert one == later
    assert one != look([trainer("step", 2)])
