"""The environment of a container: variables, expansion, references. Pure over objects read before."""

import base64
import dataclasses
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from . import quantity
from .api import Object

_REFERENCE = re.compile(r"\$(?:\$|\(([^()]*)\))")
_SUBSCRIPT = re.compile(r"metadata\.(labels|annotations)\['([^']+)'\]")


class MissingReferenceError(Exception):
    """A container refers to something that is not there; the message names both."""


Sources = Mapping[tuple[str, str], Object | None]
"""Config maps and secrets by (`ConfigMap` or `Secret`, name); None where there is none."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Facts:
    """What the downward API can tell beyond the object."""

    node_name: str
    host_ip: str
    pod_ip: str
    allocatable: Mapping[str, str]
    """Of the node: stands in for limits that a container does not set."""


def expand(text: str, variables: Mapping[str, str]) -> str:
    """Replaces `$(NAME)`; an unknown name stays as it is, `$$` is a dollar sign."""

    def replacement(match: re.Match[str]) -> str:
        if match[1] is None:
            return "$"
        return variables.get(match[1], match[0])

    return _REFERENCE.sub(replacement, text)


def references(container: Mapping[str, Any]) -> set[tuple[str, str]]:
    """Config maps and secrets that a container's environment needs."""
    found = set()
    for source in container.get("envFrom", []):
        for kind, key in (("ConfigMap", "configMapRef"), ("Secret", "secretRef")):
            if key in source:
                found.add((kind, source[key]["name"]))
    for variable in container.get("env", []):
        for kind, key in (("ConfigMap", "configMapKeyRef"), ("Secret", "secretKeyRef")):
            if reference := variable.get("valueFrom", {}).get(key):
                found.add((kind, reference["name"]))
    return found


def service_variables(services: Iterable[Object], namespace: str, *, links: bool) -> dict[str, str]:
    """Variables for services with an address: `kubernetes` always, the namespace's own with `links`."""
    result: dict[str, str] = {}
    for service in services:
        meta, spec = service["metadata"], service["spec"]
        address = spec.get("clusterIP")
        is_master = (meta["namespace"], meta["name"]) == ("default", "kubernetes")
        if address in (None, "", "None") or not (is_master or (links and meta["namespace"] == namespace)):
            continue
        prefix = meta["name"].upper().replace("-", "_")
        first = spec["ports"][0]
        result[f"{prefix}_SERVICE_HOST"] = address
        result[f"{prefix}_SERVICE_PORT"] = str(first["port"])
        result[f"{prefix}_PORT"] = f"{first.get('protocol', 'TCP').lower()}://{address}:{first['port']}"
        for port in spec["ports"]:
            protocol = port.get("protocol", "TCP")
            if port.get("name"):
                suffix = port["name"].upper().replace("-", "_")
                result[f"{prefix}_SERVICE_PORT_{suffix}"] = str(port["port"])
            stem = f"{prefix}_PORT_{port['port']}_{protocol}"
            result[stem] = f"{protocol.lower()}://{address}:{port['port']}"
            result[f"{stem}_PROTO"] = protocol.lower()
            result[f"{stem}_PORT"] = str(port["port"])
            result[f"{stem}_ADDR"] = address
    return result


def build(
    container: Mapping[str, Any], pod: Object, facts: Facts, sources: Sources, base: Mapping[str, str]
) -> dict[str, str]:
    """The variables of a container.

    Args:
        container: its specification.
        pod: the object that it belongs to.
        facts: what is known only at run time.
        sources: the objects named by `references`.
        base: what is there before: the image's variables and those of services.

    Raises:
        MissingReferenceError: a config map, a secret or a key is missing and not optional.
    """
    result = dict(base)
    for source in container.get("envFrom", []):
        for kind, field in (("ConfigMap", "configMapRef"), ("Secret", "secretRef")):
            if field in source:
                data = _data(kind, source[field], sources)
                result |= {source.get("prefix", "") + key: value.decode() for key, value in data.items()}
    for variable in container.get("env", []):
        value = variable.get("value")
        if origin := variable.get("valueFrom"):
            value = _value_from(origin, container, pod, facts, sources)
        elif value is not None:
            value = expand(value, result)
        if value is not None:
            result[variable["name"]] = value
        elif not variable.get("valueFrom"):
            result[variable["name"]] = ""
    return result


def _value_from(
    origin: Object, container: Mapping[str, Any], pod: Object, facts: Facts, sources: Sources
) -> str | None:
    if "fieldRef" in origin:
        return field(origin["fieldRef"]["fieldPath"], pod, facts)
    if "resourceFieldRef" in origin:
        return resource_field(origin["resourceFieldRef"], container, facts)
    for kind, key in (("ConfigMap", "configMapKeyRef"), ("Secret", "secretKeyRef")):
        if key in origin:
            reference = origin[key]
            value = _data(kind, reference, sources).get(reference["key"])
            if value is None and not reference.get("optional"):
                raise MissingReferenceError(
                    f"couldn't find key {reference['key']} in {kind} {_full(pod, reference)}"
                )
            return None if value is None else value.decode()
    raise MissingReferenceError(f"env source {', '.join(origin)} is not supported by this node")


def field(path: str, pod: Object, facts: Facts) -> str:
    """The value of a downward API field of a pod.

    Raises:
        MissingReferenceError: the field does not exist.
    """
    meta, spec = pod["metadata"], pod["spec"]
    if match := _SUBSCRIPT.fullmatch(path):
        return str(meta.get(match[1], {}).get(match[2], ""))
    if path in ("metadata.labels", "metadata.annotations"):
        mapping = meta.get(path.rpartition(".")[2], {})
        return "\n".join(f'{key}="{_escape(value)}"' for key, value in sorted(mapping.items()))
    known = {
        "metadata.name": meta["name"],
        "metadata.namespace": meta["namespace"],
        "metadata.uid": meta["uid"],
        "spec.nodeName": facts.node_name,
        "spec.serviceAccountName": spec.get("serviceAccountName", ""),
        "status.hostIP": facts.host_ip,
        "status.hostIPs": facts.host_ip,
        "status.podIP": facts.pod_ip,
        "status.podIPs": facts.pod_ip,
    }
    if path not in known:
        raise MissingReferenceError(f"fieldPath {path} is not supported")
    return str(known[path])


def resource_field(reference: Object, container: Mapping[str, Any], facts: Facts) -> str:
    """The value of a `resourceFieldRef`: what the container asks for, in units of the divisor, rounded up."""
    kind, _, name = reference["resource"].partition(".")
    resources = container.get("resources", {})
    amount = resources.get(kind, {}).get(name)
    if amount is None and kind == "limits":
        amount = facts.allocatable.get(name, "0")
    if amount is None:
        amount = resources.get("limits", {}).get(name, "0")
    divisor = quantity.parse(reference.get("divisor") or "1")
    return str(math.ceil(quantity.parse(amount) / (divisor or 1)))


def data_of(kind: str, source: Object) -> dict[str, bytes]:
    """All keys of a config map or a secret, as bytes."""
    if kind == "Secret":
        return {key: base64.b64decode(value) for key, value in source.get("data", {}).items()}
    binary = {key: base64.b64decode(value) for key, value in source.get("binaryData", {}).items()}
    return binary | {key: value.encode() for key, value in source.get("data", {}).items()}


def _data(kind: str, reference: Object, sources: Sources) -> dict[str, bytes]:
    source = sources.get((kind, reference["name"]))
    if source is not None:
        return data_of(kind, source)
    if reference.get("optional"):
        return {}
    raise MissingReferenceError(f'{kind.lower()} "{reference["name"]}" not found')


def _full(pod: Object, reference: Object) -> str:
    return f"{pod['metadata']['namespace']}/{reference['name']}"


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
