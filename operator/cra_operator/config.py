"""The operator's settings, from the environment."""

from __future__ import annotations

import json
import logging
import math
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast, get_args

from cra_operator.api import Policy
from cra_operator.controller.sharing import Queue, Quota
from cra_operator.controller.signals import SIGNALS

PullPolicy = Literal["Always", "IfNotPresent", "Never"]

_NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


class ConfigError(ValueError):
    """A setting is missing or wrong; the message names the variable and the fix."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """All settings.

    Attributes:
        watch_namespaces: Namespaces to look after; empty means all.
        trainer_image: Image of the built-in workloads.
        trainer_image_pull_policy: Its pull policy.
        prometheus_url: Where metrics are read; empty means nowhere.
        prometheus_token_file: File with the bearer token for it, read again as it changes; None for none.
        prometheus_ca_file: File with the certificates that its own must be signed by; None for the system's.
        prometheus_queries: PromQL in place of the default, by signal.
        observe_interval: Seconds between two looks at the metrics.
        warm_up: Seconds after a change of size in which speeds do not count.
        policy: What decides the size of jobs that name no policy.
        learn_online: Whether policies that can do so go on learning.
        hysteresis: Relative gain below which no size is changed.
        start: Part of the idle GPUs with which a job starts whose size nobody has decided.
        half_life_hours: Age at which GPU-hours held weigh half as much in fair shares.
        quotas: GPUs by namespace; others have no limit.
        queues: Budgets by queue.
        resync: Seconds between two full comparisons with the cluster.
        leader_election: Whether to wait for the lease before acting.
        pod_namespace: Namespace of the lease.
        pod_name: Identity of this instance.
        health_port: Port of `/healthz` and `/readyz`.
        metrics_port: Port of `/metrics`.
        log_level: Level by name.
    """

    watch_namespaces: tuple[str, ...] = ()
    trainer_image: str
    trainer_image_pull_policy: PullPolicy = "IfNotPresent"
    prometheus_url: str = ""
    prometheus_token_file: Path | None = None
    prometheus_ca_file: Path | None = None
    prometheus_queries: Mapping[str, str] = field(default_factory=dict)
    observe_interval: float = 15.0
    warm_up: float = 30.0
    policy: Policy = "goodput"
    learn_online: bool = False
    hysteresis: float = 0.05
    start: float = 0.5
    half_life_hours: float = 24.0
    quotas: Mapping[str, Quota] = field(default_factory=dict)
    queues: Mapping[str, Queue] = field(default_factory=dict)
    resync: float = 300.0
    leader_election: bool = True
    pod_namespace: str = "default"
    pod_name: str
    health_port: int = 8081
    metrics_port: int = 8080
    log_level: str = "INFO"


def load(environ: Mapping[str, str]) -> Config:
    """Read the settings.

    Raises:
        ConfigError: A variable is missing or has a bad value.
    """
    image = environ.get("CRA_TRAINER_IMAGE", "")
    if not image:
        raise ConfigError("CRA_TRAINER_IMAGE is not set: give the image of the built-in workloads")
    url = environ.get("CRA_PROMETHEUS_URL", "")
    if url and not url.startswith(("http://", "https://")):
        raise ConfigError(
            f"CRA_PROMETHEUS_URL is {url!r}: give an http:// or https:// address, or leave it empty"
        )
    namespaces = environ.get("CRA_WATCH_NAMESPACES", "").split(",")
    pull_policy = _choice(
        environ, "CRA_TRAINER_IMAGE_PULL_POLICY", "IfNotPresent", ("Always", "IfNotPresent", "Never")
    )
    return Config(
        watch_namespaces=tuple(name.strip() for name in namespaces if name.strip()),
        trainer_image=image,
        trainer_image_pull_policy=cast(PullPolicy, pull_policy),
        prometheus_url=url.rstrip("/"),
        prometheus_token_file=_file(environ, "CRA_PROMETHEUS_TOKEN_FILE"),
        prometheus_ca_file=_file(environ, "CRA_PROMETHEUS_CA_FILE"),
        prometheus_queries=_queries(environ, "CRA_PROMETHEUS_QUERIES"),
        observe_interval=_seconds(environ, "CRA_OBSERVE_INTERVAL_SECONDS", 15),
        warm_up=_number(environ, "CRA_WARM_UP_SECONDS", 30, low=0),
        policy=cast(Policy, _choice(environ, "CRA_POLICY", "goodput", get_args(Policy))),
        learn_online=_flag(environ, "CRA_LEARN_ONLINE", "false"),
        hysteresis=_number(environ, "CRA_HYSTERESIS_PERCENT", 5, low=0) / 100,
        start=_number(environ, "CRA_START_PERCENT", 50, low=0, high=100) / 100,
        half_life_hours=_number(environ, "CRA_HALF_LIFE_HOURS", 24, low=1e-3),
        quotas=_quotas(environ, "CRA_QUOTAS"),
        queues=_queues(environ, "CRA_QUEUES"),
        resync=_seconds(environ, "CRA_RESYNC_SECONDS", 300),
        leader_election=_flag(environ, "CRA_LEADER_ELECTION", "true"),
        pod_namespace=environ.get("CRA_POD_NAMESPACE") or _own_namespace(),
        pod_name=environ.get("CRA_POD_NAME") or socket.gethostname(),
        health_port=_port(environ, "CRA_HEALTH_PORT", 8081),
        metrics_port=_port(environ, "CRA_METRICS_PORT", 8080),
        log_level=_choice(environ, "CRA_LOG_LEVEL", "INFO", tuple(logging.getLevelNamesMapping())),
    )


def _own_namespace() -> str:
    return _NAMESPACE_FILE.read_text().strip() if _NAMESPACE_FILE.exists() else "default"


def _choice(environ: Mapping[str, str], name: str, default: str, allowed: tuple[str, ...]) -> str:
    value = environ.get(name) or default
    matches = [choice for choice in allowed if choice.lower() == value.lower()]
    if not matches:
        raise ConfigError(f"{name} is {value!r}: use one of {', '.join(allowed)}")
    return matches[0]


def _flag(environ: Mapping[str, str], name: str, default: str) -> bool:
    return _choice(environ, name, default, ("true", "false")) == "true"


def _seconds(environ: Mapping[str, str], name: str, default: float) -> float:
    value = environ.get(name) or str(default)
    try:
        seconds = float(value)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise ConfigError(f"{name} is {value!r}: give a number of seconds above 0")
    return seconds


def _number(
    environ: Mapping[str, str], name: str, default: float, *, low: float, high: float = math.inf
) -> float:
    value = environ.get(name) or str(default)
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not low <= number <= high or number == math.inf:
        upto = f" to {high:g}" if high < math.inf else ""
        raise ConfigError(f"{name} is {value!r}: give a number from {low:g}{upto}")
    return number


def _file(environ: Mapping[str, str], name: str) -> Path | None:
    """NB: whether the file is there is not asked: a mounted secret may come later, and it may change."""
    value = environ.get(name, "")
    return Path(value) if value else None


def _table(environ: Mapping[str, str], name: str) -> dict[str, Any]:
    value = environ.get(name) or "{}"
    try:
        table = json.loads(value)
    except ValueError:
        table = None
    if not isinstance(table, dict):
        raise ConfigError(f"{name} is {value!r}: give a JSON object")
    return table


def _queries(environ: Mapping[str, str], name: str) -> dict[str, str]:
    table = {signal: query for signal, query in _table(environ, name).items() if query != ""}
    for signal, query in table.items():
        if signal not in SIGNALS:
            raise ConfigError(f"{name} names {signal!r}: use one of {', '.join(SIGNALS)}")
        if not isinstance(query, str):
            raise ConfigError(f"{name} has {query!r} for {signal}: give PromQL as a string")
    return table


def _quotas(environ: Mapping[str, str], name: str) -> dict[str, Quota]:
    quotas = {}
    for namespace, entry in _table(environ, name).items():
        match entry:
            case {"gpus": int(gpus)} if gpus >= 0 and len(entry) == 1:
                quotas[namespace] = Quota(gpus=gpus)
            case {"gpus": int(gpus), "borrow": bool(borrow)} if gpus >= 0 and len(entry) == 2:
                quotas[namespace] = Quota(gpus=gpus, borrow=borrow)
            case _:
                raise ConfigError(
                    f"{name} has {entry!r} for {namespace}: give gpus, and borrow true or false"
                )
    return quotas


def _queues(environ: Mapping[str, str], name: str) -> dict[str, Queue]:
    queues = {}
    for queue, entry in _table(environ, name).items():
        given: dict[str, Any] = entry if isinstance(entry, dict) else {"": None}
        known = set(given) <= {"gpuHours", "weight"} and all(map(_is_amount, given.values()))
        if not known or given.get("weight") == 0:
            raise ConfigError(f"{name} has {entry!r} for {queue}: give gpuHours from 0 and weight above 0")
        hours = given.get("gpuHours")
        queues[queue] = Queue(
            gpu_hours=None if hours is None else float(hours), weight=float(given.get("weight", 1))
        )
    return queues


def _is_amount(value: object) -> bool:
    return isinstance(value, int | float) and 0 <= value < math.inf


def _port(environ: Mapping[str, str], name: str, default: int) -> int:
    value = environ.get(name) or str(default)
    if not value.isdecimal() or not 0 <= int(value) <= 65535:
        raise ConfigError(f"{name} is {value!r}: give a port from 1 to 65535, or 0 for any free one")
    return int(value)
