"""Settings from the environment, health and metrics endpoints."""

import asyncio
from pathlib import Path

import aiohttp
import pytest

from cra_operator.api import JobStatus
from cra_operator.config import ConfigError, load
from cra_operator.controller.sharing import Queue, Quota
from cra_operator.runtime.health import serve
from cra_operator.runtime.metrics import Metrics
from tests.operator.operator_world import make_job

IMAGE = {"CRA_TRAINER_IMAGE": "trainer:1"}


def test_everything_but_the_image_has_a_default() -> None:
    config = load(IMAGE)
    assert config.watch_namespaces == ()
    assert (config.observe_interval, config.resync) == (15, 300)
    assert (config.health_port, config.metrics_port) == (8081, 8080)
    assert config.leader_election
    assert config.prometheus_url == ""
    assert config.policy == "goodput"
    assert not config.learn_online


def test_all_settings_are_read() -> None:
    config = load(
        {
            **IMAGE,
            "CRA_WATCH_NAMESPACES": "a, b,",
            "CRA_TRAINER_IMAGE_PULL_POLICY": "Never",
            "CRA_PROMETHEUS_URL": "http://prometheus:9090/",
            "CRA_OBSERVE_INTERVAL_SECONDS": "0.5",
            "CRA_RESYNC_SECONDS": "60",
            "CRA_LEADER_ELECTION": "False",
            "CRA_POD_NAMESPACE": "cra-system",
            "CRA_POD_NAME": "op-1",
            "CRA_HEALTH_PORT": "1",
            "CRA_METRICS_PORT": "2",
            "CRA_LOG_LEVEL": "debug",
            "CRA_PROMETHEUS_TOKEN_FILE": "/token",
            "CRA_PROMETHEUS_CA_FILE": "/ca.crt",
            "CRA_PROMETHEUS_QUERIES": '{"step": "my_step", "progress": ""}',
            "CRA_POLICY": "attention",
            "CRA_LEARN_ONLINE": "True",
            "CRA_WARM_UP_SECONDS": "0",
            "CRA_HYSTERESIS_PERCENT": "10",
            "CRA_START_PERCENT": "100",
            "CRA_HALF_LIFE_HOURS": "2.5",
            "CRA_QUOTAS": '{"team-a": {"gpus": 4}, "team-b": {"gpus": 0, "borrow": false}}',
            "CRA_QUEUES": '{"gold": {"gpuHours": 10, "weight": 3}, "rest": {}}',
        }
    )
    assert config.watch_namespaces == ("a", "b")
    assert config.trainer_image_pull_policy == "Never"
    assert config.prometheus_url == "http://prometheus:9090"
    assert (config.observe_interval, config.resync, config.leader_election) == (0.5, 60, False)
    assert (config.pod_namespace, config.pod_name, config.log_level) == ("cra-system", "op-1", "DEBUG")
    assert (config.health_port, config.metrics_port) == (1, 2)
    assert (config.prometheus_token_file, config.prometheus_ca_file) == (Path("/token"), Path("/ca.crt"))
    assert config.prometheus_queries == {"step": "my_step"}
    assert (config.policy, config.warm_up, config.hysteresis) == ("attention", 0, 0.1)
    assert (config.start, config.half_life_hours) == (1.0, 2.5)
    assert config.learn_online
    assert config.quotas == {"team-a": Quota(gpus=4), "team-b": Quota(gpus=0, borrow=False)}
    assert config.queues == {"gold": Queue(gpu_hours=10, weight=3), "rest": Queue()}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("CRA_TRAINER_IMAGE", ""),
        ("CRA_TRAINER_IMAGE_PULL_POLICY", "Sometimes"),
        ("CRA_PROMETHEUS_URL", "prometheus:9090"),
        ("CRA_OBSERVE_INTERVAL_SECONDS", "0"),
        ("CRA_OBSERVE_INTERVAL_SECONDS", "soon"),
        ("CRA_RESYNC_SECONDS", "nan"),
        ("CRA_RESYNC_SECONDS", "inf"),
        ("CRA_LEADER_ELECTION", "maybe"),
        ("CRA_LEARN_ONLINE", "sometimes"),
        ("CRA_HEALTH_PORT", "http"),
        ("CRA_METRICS_PORT", "70000"),
        ("CRA_LOG_LEVEL", "LOUD"),
        ("CRA_POLICY", "best"),
        ("CRA_WARM_UP_SECONDS", "-1"),
        ("CRA_HYSTERESIS_PERCENT", "few"),
        ("CRA_START_PERCENT", "101"),
        ("CRA_HALF_LIFE_HOURS", "0"),
        ("CRA_PROMETHEUS_QUERIES", "up"),
        ("CRA_PROMETHEUS_QUERIES", '{"memory": "up"}'),
        ("CRA_PROMETHEUS_QUERIES", '{"step": 3}'),
        ("CRA_QUOTAS", '["a"]'),
        ("CRA_QUOTAS", '{"a": {"gpus": "many"}}'),
        ("CRA_QUOTAS", '{"a": {"gpus": 1, "lend": true}}'),
        ("CRA_QUOTAS", '{"a": {"gpus": 1, "borrow": "no"}}'),
        ("CRA_QUOTAS", '{"a": {"gpus": -1}}'),
        ("CRA_QUEUES", '{"a": 3}'),
        ("CRA_QUEUES", '{"a": {"gpuHours": -1}}'),
        ("CRA_QUEUES", '{"a": {"weight": 0}}'),
        ("CRA_QUEUES", '{"a": {"weight": "much"}}'),
    ],
)
def test_a_bad_value_names_its_variable_and_the_fix(name: str, value: str) -> None:
    with pytest.raises(ConfigError, match=name) as error:
        load({**IMAGE, name: value})
    assert any(word in str(error.value) for word in ("give", "use"))


async def fetch(port: int, path: str) -> tuple[int, str]:
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}{path}") as answer:
        return answer.status, await answer.text()


async def test_health_and_metrics_are_served(unused_tcp_port_factory: "callable") -> None:  # type: ignore[valid-type]
    health, metrics = unused_tcp_port_factory(), unused_tcp_port_factory()  # type: ignore[misc]
    trouble: list[str | None] = [None]
    job = make_job().model_copy(
        update={
            "status": JobStatus.model_validate(
                {"phase": "Running", "gpus": 2, "gpuSeconds": 7, "reward": 1.5}
            )
        }
    )
    own = Metrics([job], lambda: 3)
    async with serve(
        health_port=health,
        metrics_port=metrics,
        alive=lambda: trouble[0],
        ready=lambda: "not synced yet",
        metrics=own.render,
    ):
        assert await fetch(health, "/healthz") == (200, "ok")
        assert await fetch(health, "/readyz") == (503, "not synced yet")
        trouble[0] = "jobs are due and nothing was done for 300 s"
        assert (await fetch(health, "/healthz"))[0] == 503
        text = (await fetch(metrics, "/metrics"))[1]
    assert 'cra_operator_jobs{phase="Running"} 1.0' in text
    assert 'cra_operator_job_gpus{job="digits",namespace="default"} 2.0' in text
    assert 'cra_operator_job_reward{job="digits",namespace="default"} 1.5' in text
    assert "cra_operator_queue_depth 3.0" in text
    with pytest.raises(aiohttp.ClientError):
        await asyncio.wait_for(fetch(health, "/healthz"), 5)


def test_metrics_count_what_a_status_tells() -> None:
    job = make_job()
    own = Metrics([], lambda: 0)
    before = JobStatus.model_validate({"restarts": 1, "gpuSeconds": 10})
    after = JobStatus.model_validate(
        {
            "restarts": 2,
            "rescales": 1,
            "lastDecision": {"from": 1, "to": 2, "reason": "Gain"},
            "pauseSeconds": 0.3,
            "gpuSeconds": 15,
            "conditions": [
                {"type": "Degraded", "status": "True", "reason": "OOMKilled", "message": "",
                 "lastTransitionTime": "2026-01-01T00:00:00Z"}
            ],
        }
    )  # fmt: skip
    own.note_transition(job.model_copy(update={"status": before}), after)
    own.request("POST", 201)
    own.first_pod(0.2)
    with pytest.raises(ValueError, match="boom"), own.reconciling():
        raise ValueError("boom")
    text = own.render().decode()
    assert 'cra_operator_restarts_total{reason="OOMKilled"} 1.0' in text
    assert 'cra_operator_rescales_total{reason="Gain"} 1.0' in text
    assert "cra_operator_pause_seconds_sum 0.3" in text
    assert "cra_operator_gpu_seconds_total 5.0" in text
    assert 'cra_operator_api_requests_total{code="201",verb="POST"} 1.0' in text
    assert "cra_operator_first_pod_seconds_count 1.0" in text
    assert 'cra_operator_reconcile_seconds_count{result="error"} 1.0' in text
