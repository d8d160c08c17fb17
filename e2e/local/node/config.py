"""What the launcher tells the node agent: one JSON file in camelCase, one frozen dataclass here.

`AgentConfig.dump` and `AgentConfig.load` are each other's inverse. Fields with a default may be left out.
"""

import dataclasses
import hashlib
import json
import re
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

_ACRONYMS = {"ca": "CA", "cidr": "CIDR", "dns": "DNS", "mib": "MiB"}


class ConfigError(ValueError):
    """The configuration file is wrong; the message names the field and the fix."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class GpuType:
    """A kind of simulated GPU."""

    product: str
    """Value of the node label `nvidia.com/gpu.product`."""
    core_share: float
    """Fraction of one CPU core that one such GPU may burn; above 1 means more than a core."""
    memory_mib: int
    """Framebuffer size that the exporter reports."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class NodeConfig:
    """A node to play."""

    name: str
    ip: str
    """Address inside the pod network, unique per node, outside the range that pods get."""
    cpu: str = "8"
    memory: str = "16Gi"
    pods: int = 110
    gpus: int = 0
    gpu_type: str = ""
    """Key of `AgentConfig.gpu_types`; empty on nodes without GPUs."""
    labels: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageConfig:
    """What an image name stands for: the host's file system, with this entry point and environment."""

    entrypoint: tuple[str, ...] = ()
    env: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class AgentConfig:
    """Everything the agent needs to know; paths are those of the cluster's mount namespace."""

    kubeconfig: Path
    ca: Path
    """The cluster's certificate authority, handed to pods with their token."""
    serving_cert: Path
    serving_key: Path
    client_ca: Path
    """Who may talk to the kubelet API: holders of a certificate signed by this authority."""
    root_dir: Path
    """Logs, volumes and host paths live here; it belongs to one agent at a time."""
    nodes: tuple[NodeConfig, ...]
    gpu_types: Mapping[str, GpuType]
    images: Mapping[str, ImageConfig]
    """By repository, without tag or digest; any other image fails to be pulled."""
    pod_cidr: str = "10.244.0.0/16"
    gateway: str = "10.244.0.1"
    bridge: str = "cra0"
    service_cidr: str = "10.96.0.0/16"
    cluster_dns: str = "10.96.0.10"
    cluster_domain: str = "cluster.local"
    back_off_seconds: float = 10.0
    """First wait before a crashed container or a refused image is tried again; doubles each time."""
    back_off_max_seconds: float = 300.0
    lease_seconds: int = 40
    """Validity of a node lease; renewed four times as often."""

    @classmethod
    def load(cls, path: Path) -> Self:
        """Reads the JSON file at `path`.

        Raises:
            ConfigError: a field is unknown, missing or of the wrong type.
        """
        config: Self = _decode(cls, json.loads(path.read_text()), "config")
        for node in config.nodes:
            if node.gpus and node.gpu_type not in config.gpu_types:
                raise ConfigError(f"node {node.name}: gpuType {node.gpu_type!r} is not a key of gpuTypes")
        return config

    def dump(self, path: Path) -> None:
        """Writes the JSON file that `load` reads."""
        path.write_text(json.dumps(_encode(self), indent=2) + "\n")


def cluster_id(root_dir: Path) -> str:
    """Names what the agent leaves outside its namespaces (its cgroups), from what both sides know."""
    return "cra-" + hashlib.sha256(str(root_dir.absolute()).encode()).hexdigest()[:12]


def _camel(name: str) -> str:
    head, *rest = name.split("_")
    return head + "".join(_ACRONYMS.get(word, word.capitalize()) for word in rest)


def _encode(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return {_camel(f.name): _encode(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: _encode(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return [_encode(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def _decode(kind: Any, value: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        if not isinstance(value, dict):
            raise ConfigError(f"{where} must be an object")
        fields = {_camel(f.name): f for f in dataclasses.fields(kind)}
        hints = typing.get_type_hints(kind)
        if unknown := sorted(set(value) - set(fields)):
            raise ConfigError(f"{where}.{unknown[0]} is not known; fields are {', '.join(fields)}")
        for name, field in fields.items():
            required = field.default is field.default_factory is dataclasses.MISSING
            if required and name not in value:
                raise ConfigError(f"{where}.{name} is missing")
        return kind(
            **{fields[k].name: _decode(hints[fields[k].name], v, f"{where}.{k}") for k, v in value.items()}
        )
    if origin is tuple:
        if not isinstance(value, list):
            raise ConfigError(f"{where} must be a list")
        return tuple(_decode(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    if origin is not None and issubclass(origin, Mapping):
        if not isinstance(value, dict):
            raise ConfigError(f"{where} must be an object")
        return {key: _decode(arguments[1], item, f"{where}.{key}") for key, item in value.items()}
    if kind is Path and isinstance(value, str):
        return Path(value)
    if kind is float and type(value) in (int, float):
        return float(value)
    if type(value) is not kind:
        raise ConfigError(f"{where} must be of type {kind.__name__}, got {value!r}")
    return value


def parse_image(image: str) -> str:
    """Repository of an image reference: without tag and digest, with the registry where one is given."""
    return re.sub(r":[^/]*$", "", image.partition("@")[0])
