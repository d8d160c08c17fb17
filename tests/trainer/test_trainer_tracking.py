"""Row B5, curves of a training: where they are, what they say after a restart, what a failing place costs."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import wandb
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cra_trainer import tracking
from cra_trainer.config import ConfigError, Env, Tracking, read_config
from cra_trainer.storage import Storage
from cra_trainer.tracking import Tracker
from tests.trainer import scripts_evaluation
from tests.trainer.processes import Ended, run_ranks


def scalars(place: Path) -> dict[str, list[tuple[int, float]]]:
    """Steps and values of each curve in a directory of event files."""
    events = EventAccumulator(str(place))
    events.Reload()
    return {name: [(e.step, e.value) for e in events.Scalars(name)] for name in events.Tags()["scalars"]}


def run(directory: Path, checkpoints: Path, epochs: int, **training: Any) -> Ended:
    ranks = run_ranks(
        scripts_evaluation.classify,
        world_size=2,
        directory=directory,
        checkpoints=checkpoints,
        config={"training": {"epochs": epochs, "batchSize": 16, **training}},
    )
    assert [rank.code for rank in ranks] == [0, 0]
    return ranks[0]


@pytest.mark.processes
def test_the_reports_are_in_event_files_beside_the_checkpoints_and_go_on_after_a_restart(
    tmp_path: Path,
) -> None:
    kept = tmp_path / "checkpoints"
    run(tmp_path / "1", kept, 2)
    told = run(tmp_path / "2", kept, 3).message
    curve = scalars(kept / "tensorboard")["report/accuracy"]
    assert [step for step, _ in curve] == [4, 8, 12]
    assert curve[-1][1] == pytest.approx(told["metrics"]["accuracy"])


@pytest.mark.processes
def test_no_event_files_are_written_where_the_spec_wants_none(tmp_path: Path) -> None:
    kept = tmp_path / "checkpoints"
    run(tmp_path / "1", kept, 1, tracking={"tensorboard": False})
    assert [path.name[:5] for path in kept.iterdir()] == ["step-"]


def test_numbers_of_steps_are_taken_once_a_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    tracker = Tracker(Env(checkpoint_dir=str(tmp_path)), Tracking())
    assert not tracker.due
    now += 1
    assert tracker.due
    tracker.write(1, {"train/loss": 2.0})
    assert not tracker.due
    tracker.close()
    assert scalars(tmp_path / "tensorboard") == {"train/loss": [(1, 2.0)]}
    assert not Tracker(Env(), Tracking()).due


def test_event_files_go_where_checkpoints_go_under_a_url_too(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "UPLOAD_SECONDS", 0)
    tracker = Tracker(Env(checkpoint_dir=store), Tracking())
    tracker.write(1, {"train/loss": 2.0})
    tracker.write(2, {"train/loss": 1.0})
    tracker.close()
    place = Storage(f"{store}/tensorboard")
    (name,) = place.names()
    (tmp_path / name).write_bytes(place.read(name))
    assert scalars(tmp_path) == {"train/loss": [(1, 2.0), (2, 1.0)]}


def test_a_place_that_cannot_be_written_costs_its_curves_and_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "tensorboard").write_text("in the way")
    tracker = Tracker(Env(checkpoint_dir=str(tmp_path)), Tracking())
    with caplog.at_level(logging.WARNING):
        for step in range(3):
            tracker.write(step, {"train/loss": 1.0})
        tracker.close()
    assert len(caplog.records) == 1
    assert "no more curves for TensorBoard" in caplog.text


def test_a_configured_project_gets_the_same_curves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("CRA_JOB", "digits")
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    tracker = Tracker(Env(), Tracking(wandb_project="images"))
    tracker.write(3, {"report/accuracy": 0.5})
    tracker.write(7, {"report/accuracy": 0.75})
    tracker.close()
    # A process of its own writes the file; all is there when that one has ended.
    wandb.teardown()
    summaries = list((tmp_path / "wandb").glob("offline-run-*/*.wandb"))
    assert len(summaries) == 1
    assert b"report/accuracy" in summaries[0].read_bytes()
    assert wandb.run is None


def test_tracking_is_read_where_the_spec_has_it() -> None:
    assert read_config({}).training.tracking == Tracking(tensorboard=True, wandb_project=None)
    spec = {"tensorboard": False, "wandb": {"project": "images", "secretName": "key"}}
    read = read_config({"CRA_CONFIG": json.dumps({"training": {"tracking": spec}})})
    assert read.training.tracking == Tracking(tensorboard=False, wandb_project="images")
    with pytest.raises(ConfigError, match="tensorboard: expected true or false, got 1"):
        read_config({"CRA_CONFIG": json.dumps({"training": {"tracking": {"tensorboard": 1}}})})
