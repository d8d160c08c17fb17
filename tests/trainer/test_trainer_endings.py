"""Last words: bounded, valid, and about the user's own code."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from torch import distributed as dist

from cra_trainer.config import EarlyStopping, Target, Training
from cra_trainer.data import Cursor
from cra_trainer.progress import Goal, Rate, better, judge, progress
from cra_trainer.termination import encode, error_message, exit_code, is_peer_loss, where, write

GLOO_LOST = "[../gloo/transport/tcp/pair.cc:534] Connection closed by peer [10.244.0.3]:48130"
GLOO_MISMATCH = (
    "[enforce fail at ../gloo/transport/tcp/pair.cc:446] op.preamble.length <= op.nbytes. 120 vs 100"
)


@pytest.mark.parametrize(
    ("error", "lost"),
    [
        (RuntimeError(GLOO_LOST), True),
        (dist.DistNetworkError("The client socket has timed out"), True),
        (RuntimeError(GLOO_MISMATCH), False),
        (ConnectionResetError(104, "Connection reset by peer"), False),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
    ],
)
def test_a_lost_peer_is_told_from_a_mistake_of_the_script(error: Exception, lost: bool) -> None:
    assert is_peer_loss(error) is lost
    assert exit_code(error) == (75 if lost else 1)
    assert error_message(error, rank=3)["outcome"] == ("peer-lost" if lost else "failed")


def test_a_lost_peer_is_seen_through_what_it_caused() -> None:
    wrapped = ValueError("no gradient")
    wrapped.__cause__ = RuntimeError(GLOO_LOST)
    assert is_peer_loss(wrapped)


@pytest.mark.parametrize(("code", "expected"), [(None, 0), (0, 0), (143, 143), (3, 3), ("usage: ...", 1)])
def test_an_exit_keeps_its_code(code: Any, expected: int) -> None:
    assert exit_code(SystemExit(code)) == expected


def raise_in_library() -> None:
    json.loads("{")


def test_the_place_is_the_users_own_line_not_the_librarys() -> None:
    with pytest.raises(ValueError, match="Expecting") as error:
        raise_in_library()
    place = where(error.value.__traceback__)
    assert place.startswith("tests/trainer/test_trainer_endings.py:")
    assert place.endswith(" in raise_in_library")


def test_the_message_of_an_error_says_type_text_place_and_rank() -> None:
    try:
        raise KeyError("labels")
    except KeyError as error:
        told = error_message(error, rank=2)["error"]
    assert told["type"] == "KeyError"
    assert told["message"] == "'labels'"
    assert told["where"].endswith("in test_the_message_of_an_error_says_type_text_place_and_rank")
    assert told["rank"] == 2


def ranks(n: int) -> list[dict[str, float]]:
    return [
        {"rank": i, "share": 1 / n, "weight": 1 / n, "performance": 57.1, "samplesPerSecond": 812.3}
        for i in range(n)
    ]


@pytest.mark.parametrize(
    "message",
    [
        {"outcome": "succeeded", "ranks": ranks(4096), "metrics": {"accuracy": 0.97}},
        {
            "outcome": "failed",
            "error": {"type": "E", "message": "x" * 10_000, "where": "y" * 10_000, "rank": 1},
        },
        {"outcome": "succeeded", "metrics": {f"metric-{i}": 0.5 for i in range(1000)}, "ranks": ranks(64)},
        {
            "outcome": "failed",
            "error": {"type": "E", "message": "\N{SNOWMAN}" * 3000, "where": "", "rank": 0},
        },
    ],
)
def test_a_message_is_valid_and_short_whatever_is_in_it(message: dict[str, Any]) -> None:
    text = encode(message)
    assert len(text) <= 4096
    read = json.loads(text)
    assert read["outcome"] == message["outcome"]
    if "error" in message:
        assert read["error"]["type"] == "E"
        assert read["error"]["message"].endswith(message["error"]["message"][-100:])


def test_as_many_ranks_as_fit_are_told_from_the_first_on() -> None:
    told = json.loads(encode({"outcome": "succeeded", "ranks": ranks(4096)}))["ranks"]
    assert len(told) > 20
    assert [one["rank"] for one in told] == list(range(len(told)))


def test_classes_make_room_for_ranks_and_metrics() -> None:
    classes = [{"name": f"class {i}", "precision": 0.5, "recall": 0.5, "f1": 0.5} for i in range(1000)]
    message = {"outcome": "succeeded", "classes": classes, "ranks": ranks(4), "metrics": {"accuracy": 0.5}}
    told = json.loads(encode(message))
    assert told["ranks"] == json.loads(json.dumps(message["ranks"]))
    assert told["metrics"] == {"accuracy": 0.5}
    assert told["classes"] == classes[: len(told["classes"])]
    assert len(told["classes"]) > 20


def test_numbers_that_json_does_not_have_are_left_out() -> None:
    read = json.loads(encode({"metrics": {"loss": math.nan, "best": -math.inf, "accuracy": 0.5}}))
    assert read["metrics"] == {"accuracy": 0.5}


def test_a_message_that_cannot_be_written_does_not_become_the_reason(tmp_path: Path) -> None:
    write(tmp_path / "missing" / "log", {"outcome": "succeeded"})
    write(None, {"outcome": "succeeded"})
    write(tmp_path / "log", {"outcome": "succeeded"})
    assert json.loads((tmp_path / "log").read_text()) == {"outcome": "succeeded"}


def test_progress_counts_epochs_and_their_parts() -> None:
    cursor = Cursor(epoch=2, index=50, step=14, samples=250)
    now = progress(cursor, epochs=10, size=100, rate=25.0, loss=0.5, worth=12.5)
    assert now.ratio == pytest.approx(0.25)
    assert now.etaSeconds == pytest.approx(750 / 25)
    assert now.as_dict() | {"ratio": 0.25, "etaSeconds": 30.0} == {
        "epoch": 2,
        "epochs": 10,
        "step": 14,
        "ratio": 0.25,
        "samplesPerSecond": 25.0,
        "loss": 0.5,
        "etaSeconds": 30.0,
        "samples": 250,
        "scaleInvariantSteps": 12.5,
    }


def test_a_training_that_ended_early_is_done() -> None:
    now = progress(Cursor(epoch=2), epochs=10, size=100, rate=None, loss=None, worth=9.0, done=True)
    assert now.ratio == 1.0
    assert "etaSeconds" not in now.as_dict()


def test_the_rate_forgets_what_was_long_ago() -> None:
    rate = Rate()
    assert rate.value is None
    for _ in range(100):
        rate.add(100, 1.0)
    assert rate.value == pytest.approx(100)
    for _ in range(20):
        rate.add(300, 1.0)
    assert rate.value == pytest.approx(300, rel=0.05)


def judged(values: list[float], training: Training, name: str = "accuracy") -> Goal:
    goal = Goal()
    for value in values:
        goal = judge(goal, {name: value}, training)
    return goal


def test_a_target_is_reached_from_its_side() -> None:
    up = Training(target=Target(name="accuracy", value=0.9))
    assert not judged([0.5, 0.89], up).reason
    assert judged([0.5, 0.9], up).reason == "accuracy 0.9 reached the target 0.9"
    down = Training(target=Target(name="accuracy", value=0.1, mode="min"))
    assert not judged([0.5], down).reason
    assert judged([0.5, 0.05], down).reason
    assert not judge(Goal(), {"other": 1.0}, up).reason


def test_stopping_early_counts_reports_without_improvement() -> None:
    training = Training(early_stopping=EarlyStopping(patience=2, min_delta=0.01))
    assert not judged([0.5, 0.505, 0.52, 0.525], training).reason
    assert (
        judged([0.5, 0.52, 0.525, 0.529], training).reason == "accuracy has not improved on 0.52 in 2 reports"
    )
    assert not judged([3.0, 2.0, 1.0], training, "test_loss").reason
    assert judged([1.0, 2.0, 3.0], training, "test_loss").reason


def test_less_is_better_where_the_name_or_the_target_says_so() -> None:
    assert better("accuracy", Training()) == "max"
    assert better("test_loss", Training()) == better("error_rate", Training()) == "min"
    assert better("perplexity", Training(target=Target(name="perplexity", value=9.0, mode="min"))) == "min"
