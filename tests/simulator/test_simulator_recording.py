"""The story behind a result: who had what from when to when."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cra_operator.controller.policy import ClusterObservation, Decision
from cra_simulator.cli.replay import story
from cra_simulator.recording import Recorded, spans
from cra_simulator.simulation import simulate
from tests.simulator.small import CLUSTER, Script, jobs, linear, rates


def test_lives_begin_at_submission_and_end_with_the_job() -> None:
    submitted = jobs(0, 70)
    watched = Recorded(Script([1, 0], [2, 0], [2, 4]))
    result = simulate(submitted, rates(app=linear(300)), CLUSTER, watched)
    lives = [
        (span.job, span.start, span.end, span.gpus) for span in spans(watched.moments, submitted, result)
    ]
    # 30 steps until 120, then 30 s of restart and 135 s at two a second.
    assert lives == [(0, 0, 60, 0), (0, 60, 120, 1), (0, 120, 285, 2), (1, 70, 180, 0), (1, 180, 285, 4)]
    assert [moment.weight for moment in watched.moments] == [None] * len(watched.moments)


class Attentive(Script):
    """Says that jobs get attention by their place."""

    def decide(self, seen: ClusterObservation) -> Decision:
        weight = np.arange(1, len(seen) + 1) / np.arange(1, len(seen) + 1).sum()
        return replace(super().decide(seen), weight=weight)


def test_a_life_tells_the_attention_behind_each_size() -> None:
    submitted = jobs(0, 70)
    watched = Recorded(Attentive([1, 0], [2, 0], [2, 4]))
    result = simulate(submitted, rates(app=linear(300)), CLUSTER, watched)
    lives = spans(watched.moments, submitted, result)
    assert [span.weight for span in lives] == [None, 1, pytest.approx(1 / 3), None, pytest.approx(2 / 3)]
    assert story(lives, submitted, result, CLUSTER)[3][1:] == ("job-0", "2 t4     attention 33.3%")
