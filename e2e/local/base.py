"""The objects that every cluster starts with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from e2e.local.layout import GATEWAY, PROMETHEUS_PORT, STORAGE_PROVISIONER
from e2e.local.rest import Api

_RBAC = "rbac.authorization.k8s.io"


def base_objects() -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Each object with its path, in the order in which they can be made."""
    yield "/api/v1/namespaces/monitoring", _object("v1", "Namespace", "monitoring")
    yield (
        "/api/v1/namespaces/monitoring/services/prometheus",
        _object(
            "v1",
            "Service",
            "prometheus",
            namespace="monitoring",
            spec={"ports": [{"name": "http", "port": PROMETHEUS_PORT, "targetPort": PROMETHEUS_PORT}]},
        ),
    )
    # Prometheus runs beside the API server, not in a pod, so its Service has no selector and this instead.
    yield (
        "/apis/discovery.k8s.io/v1/namespaces/monitoring/endpointslices/prometheus",
        _object(
            "discovery.k8s.io/v1",
            "EndpointSlice",
            "prometheus",
            namespace="monitoring",
            labels={"kubernetes.io/service-name": "prometheus"},
            addressType="IPv4",
            endpoints=[{"addresses": [GATEWAY], "conditions": {"ready": True}}],
            ports=[{"name": "http", "port": PROMETHEUS_PORT, "protocol": "TCP"}],
        ),
    )
    yield (
        "/apis/storage.k8s.io/v1/storageclasses/standard",
        _object(
            "storage.k8s.io/v1",
            "StorageClass",
            "standard",
            annotations={"storageclass.kubernetes.io/is-default-class": "true"},
            provisioner=STORAGE_PROVISIONER,
            reclaimPolicy="Delete",
            volumeBindingMode="Immediate",
        ),
    )
    rules = [
        {
            "apiGroups": [""],
            "resources": ["pods", "nodes", "namespaces"],
            "verbs": ["get", "list", "watch"],
        }
    ]
    yield (
        f"/apis/{_RBAC}/v1/clusterroles/cra:prometheus",
        _object(f"{_RBAC}/v1", "ClusterRole", "cra:prometheus", rules=rules),
    )
    yield (
        f"/apis/{_RBAC}/v1/clusterrolebindings/cra:prometheus",
        _object(
            f"{_RBAC}/v1",
            "ClusterRoleBinding",
            "cra:prometheus",
            roleRef={"apiGroup": _RBAC, "kind": "ClusterRole", "name": "cra:prometheus"},
            subjects=[{"apiGroup": _RBAC, "kind": "User", "name": "cra:prometheus"}],
        ),
    )


def apply_base_objects(api: Api) -> None:
    """Bring all base objects to their wanted state; doing it again changes nothing.

    Raises:
        ApiError: The API server refuses one of them.
    """
    for path, manifest in base_objects():
        api.apply(path, manifest)


def _object(
    api_version: str,
    kind: str,
    name: str,
    *,
    namespace: str | None = None,
    labels: Mapping[str, str] | None = None,
    annotations: Mapping[str, str] | None = None,
    **rest: Any,
) -> Mapping[str, Any]:
    metadata = {"name": name, "namespace": namespace, "labels": labels, "annotations": annotations}
    present = {key: value for key, value in metadata.items() if value is not None}
    return {"apiVersion": api_version, "kind": kind, "metadata": present, **rest}
