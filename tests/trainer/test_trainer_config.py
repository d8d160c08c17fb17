"""The environment and the spec: typed, with defaults, and errors that name what is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cra_trainer.config import (
    Config,
    ConfigError,
    EarlyStopping,
    LayerAllocator,
    Target,
    TaskAllocator,
    read_config,
    read_env,
)


def config(**fields: Any) -> Config:
    return read_config({"CRA_CONFIG": json.dumps(fields)})


def test_without_a_launcher_the_group_is_one_process() -> None:
    env = read_env({})
    assert (env.launched, env.rank, env.world_size, env.local_world_size) == (False, 0, 1, 1)
    assert env.metrics_port is None
    assert env.checkpoint_dir is None


def test_the_pod_contract_is_read(tmp_path: Path) -> None:
    env = read_env(
        {
            "RANK": "0",
            "WORLD_SIZE": "4",
            "LOCAL_RANK": "0",
            "LOCAL_WORLD_SIZE": "2",
            "CRA_GENERATION": "3",
            "CRA_POD_IP": "10.244.0.7",
            "CRA_METRICS_PORT": "8080",
            "CRA_CHECKPOINT_DIR": "/cra/checkpoint",
            "CRA_TERMINATION_LOG": str(tmp_path / "log"),
        }
    )
    assert (env.world_size, env.local_world_size, env.generation) == (4, 2, 3)
    assert (env.pod_ip, env.metrics_port) == ("10.244.0.7", 8080)
    assert env.checkpoint_dir == "/cra/checkpoint"
    assert env.termination_log == tmp_path / "log"


def test_only_rank_0_keeps_checkpoints() -> None:
    env = read_env({"RANK": "1", "WORLD_SIZE": "2", "CRA_CHECKPOINT_DIR": "/cra/checkpoint"})
    assert env.checkpoint_dir is None
    assert read_env({"CRA_CHECKPOINT_DIR": "s3://bucket/x"}).checkpoint_dir == "s3://bucket/x"


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"WORLD_SIZE": "four"}, "WORLD_SIZE='four': expected a whole number"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE=0: expected at least 1"),
        ({"RANK": "2", "WORLD_SIZE": "2"}, "RANK=2: expected less than WORLD_SIZE=2"),
        ({"CRA_METRICS_PORT": "70000"}, "CRA_METRICS_PORT=70000: expected 0 to 65535"),
    ],
)
def test_a_wrong_variable_is_named(environ: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        read_env(environ)
    assert str(error.value) == message


def test_nothing_given_is_the_defaults_of_the_crd() -> None:
    default = read_config({})
    assert (
        default
        == config()
        == config(training={}, allocator={"ranks": {}}, checkpoint={"volume": {"size": "1Gi"}})
    )
    assert (default.training.epochs, default.training.batch_size, default.training.seed) == (10, 64, 0)
    assert default.training.optimizer.name == "adam"
    assert default.training.optimizer.learning_rate == 0.001
    assert (default.ranks.strategy, default.ranks.heads) == ("attention", 4)
    assert (default.checkpoint.interval_seconds, default.checkpoint.keep) == (60, 3)


def test_every_field_that_is_acted_on_is_read() -> None:
    read = config(
        workload={"name": "digits-cnn", "parameters": {"width": "16"}},
        training={
            "epochs": 3,
            "batchSize": 128,
            "minBatchSize": 64,
            "maxBatchSize": 512,
            "learningRateRule": "adascale",
            "seed": 5,
            "optimizer": {"name": "sgd", "learningRate": 1, "weightDecay": 0.1},
            "targetMetric": {"name": "loss", "value": 0.5, "mode": "min"},
            "earlyStopping": {"patience": 2, "minDelta": 0.01},
        },
        allocator={"ranks": {"strategy": "fixed", "weights": [1, 2.5], "heads": 2, "seed": 3}},
        checkpoint={"intervalSeconds": 5, "keep": 1},
    )
    assert read.number("width", 32) == 16
    assert read.number("depth", 7) == 7
    assert (read.training.epochs, read.training.batch_size, read.training.seed) == (3, 128, 5)
    assert (read.training.min_batch_size, read.training.max_batch_size) == (64, 512)
    assert read.training.learning_rate_rule == "adascale"
    assert read.training.optimizer.learning_rate == 1.0
    assert read.training.target == Target(name="loss", value=0.5, mode="min")
    assert read.training.early_stopping == EarlyStopping(patience=2, min_delta=0.01)
    assert (read.ranks.weights, read.ranks.heads, read.ranks.seed) == ((1.0, 2.5), 2, 3)
    assert (read.checkpoint.interval_seconds, read.checkpoint.keep) == (5, 1)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"training": 3}, "CRA_CONFIG.training: expected an object, got 3"),
        (
            {"training": {"batchSize": "64"}},
            'CRA_CONFIG.training.batchSize: expected a whole number, got "64"',
        ),
        (
            {"training": {"batchSize": True}},
            "CRA_CONFIG.training.batchSize: expected a whole number, got true",
        ),
        ({"training": {"epochs": 0}}, "CRA_CONFIG.training.epochs: expected at least 1, got 0"),
        (
            {"training": {"batchSize": 8, "minBatchSize": 16}},
            "CRA_CONFIG.training: expected minBatchSize <= batchSize <= maxBatchSize, got 16, 8, 8",
        ),
        (
            {"training": {"optimizer": {"name": "lion"}}},
            "CRA_CONFIG.training.optimizer.name: "
            "expected one of sgd, adam, adamw, adagrad, adafactor, got 'lion'",
        ),
        (
            {"allocator": {"ranks": {"strategy": "fixed"}}},
            "CRA_CONFIG.allocator.ranks.weights: needed with strategy fixed or priority, and only with it",
        ),
        (
            {"allocator": {"ranks": {"strategy": "priority", "weights": [1, 2.5]}}},
            "CRA_CONFIG.allocator.ranks.weights: expected whole numbers of at least 1 with priority",
        ),
        (
            {"allocator": {"ranks": {"strategy": "fixed", "weights": [1, "x"]}}},
            'CRA_CONFIG.allocator.ranks.weights.1: expected a number, got "x"',
        ),
    ],
)
def test_a_wrong_field_is_named(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        config(**fields)
    assert str(error.value) == message


@pytest.mark.parametrize(("text", "message"), [("{", "not JSON"), ("[]", "expected an object")])
def test_what_is_no_object_at_all_is_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=f"CRA_CONFIG: {message}"):
        read_config({"CRA_CONFIG": text})


@pytest.mark.parametrize("text", ["", "0", "-1", "3.5", "wide"])
def test_a_workload_parameter_that_is_no_size_is_named(text: str) -> None:
    with pytest.raises(ConfigError, match=r"workload\.parameters\.width"):
        config(workload={"parameters": {"width": text}}).number("width", 32)


def test_a_pod_template_gives_parameters_in_a_variable_of_its_own() -> None:
    given = read_config({"CRA_CONFIG": "{}", "CRA_PARAMETERS": '{"folder": "/data", "width": "16"}'})
    assert given.parameters == {"folder": "/data", "width": "16"}
    assert given.number("width", 32) == 16
    with pytest.raises(ConfigError, match=r"CRA_PARAMETERS\.width: expected a text, got 16"):
        read_config({"CRA_PARAMETERS": '{"width": 16}'})


def test_layers_and_tasks_are_read_where_the_spec_has_them() -> None:
    layers = {"computeBudget": 0.5, "learn": "reward"}
    spec = {"allocator": {"layers": layers, "tasks": {"strategy": "adaptive"}}}
    given = read_config({"CRA_CONFIG": json.dumps(spec)})
    assert given.layers == LayerAllocator(compute_budget=0.5, learn="reward")
    assert given.tasks.strategy == "adaptive"
    assert (read_config({}).layers, read_config({}).tasks) == (LayerAllocator(), TaskAllocator())


def test_a_task_that_would_be_good_and_poor_at_once_is_refused() -> None:
    tasks = {"strategy": "performance", "good": 2, "poor": 1}
    given = read_config({"CRA_CONFIG": json.dumps({"allocator": {"tasks": tasks}})})
    assert given.tasks == TaskAllocator(strategy="performance", good=2.0, poor=1.0)
    with pytest.raises(ConfigError, match=r"allocator\.tasks\.poor: expected less than good \(0.9\), got 1"):
        read_config({"CRA_CONFIG": json.dumps({"allocator": {"tasks": {"poor": 1}}})})
