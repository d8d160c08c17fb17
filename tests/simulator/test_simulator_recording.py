"""The story behind a result: who had what from when to when."""

from __future__ import annotations

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
