"""The operator's settings, from the environment."""

from __future__ import annotations

import logging
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

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
        observe_interval: Seconds between two looks at the metrics.
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
    observe_interval: float = 15.0
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
        observe_interval=_seconds(environ, "CRA_OBSERVE_INTERVAL_SECONDS", 15),
        resync=_seconds(environ, "CRA_RESYNC_SECONDS", 300),
        leader_election=_choice(environ, "CRA_LEADER_ELECTION", "true", ("true", "false")) == "true",
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


def _seconds(environ: Mapping[str, str], name: str, default: float) -> float:
    value = environ.get(name) or str(default)
    try:
        seconds = float(value)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise ConfigError(f"{name} is {value!r}: give a number of seconds above 0")
    return seconds


def _port(environ: Mapping[str, str], name: str, default: int) -> int:
    value = environ.get(name) or str(default)
    if not value.isdecimal() or not 0 <= int(value) <= 65535:
        raise ConfigError(f"{name} is {value!r}: give a port from 1 to 65535, or 0 for any free one")
    return int(value)
