"""Row A4: errors, performance and the grades that follow."""

from __future__ import annotations

import pytest

from cra_trainer.allocation.performance import errors, grade, performance


def test_performance_relates_what_is_right_to_the_largest_error() -> None:
    distances = errors([0.9, 0.6, 0.5], 1.0)
    assert distances == pytest.approx([0.1, 0.4, 0.5])
    assert performance(distances) == pytest.approx([1.8, 1.2, 1.0])


def test_the_error_of_a_vector_is_its_distance() -> None:
    assert errors([[3.0, 4.0], [0.0, 0.0]], [0.0, 0.0]) == pytest.approx([5.0, 0.0])


def test_nodes_without_error_all_perform_fully() -> None:
    assert performance([0.0, 0.0]).tolist() == [1.0, 1.0]


def test_grades_meet_at_their_thresholds() -> None:
    assert [grade(p) for p in (0.9, 0.89, 0.5, 0.49)] == ["good", "fair", "fair", "poor"]
    assert grade(0.7, good=0.7) == "good"
    assert grade(0.7, poor=0.8) == "poor"
