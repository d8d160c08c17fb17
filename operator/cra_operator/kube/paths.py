"""Where things are in the API."""

from __future__ import annotations

from cra_operator.api import API_VERSION, PLURAL, JobKey

PRIORITY_CLASSES = "/apis/scheduling.k8s.io/v1/priorityclasses"
NODES = "/api/v1/nodes"

_COLLECTIONS = {
    "Pod": "/api/v1/namespaces/{}/pods",
    "Service": "/api/v1/namespaces/{}/services",
    "PersistentVolumeClaim": "/api/v1/namespaces/{}/persistentvolumeclaims",
    "ConfigMap": "/api/v1/namespaces/{}/configmaps",
    "Event": "/apis/events.k8s.io/v1/namespaces/{}/events",
    "Lease": "/apis/coordination.k8s.io/v1/namespaces/{}/leases",
}


def collection(kind: str, namespace: str) -> str:
    """The objects of a kind in a namespace."""
    return _COLLECTIONS[kind].format(namespace)


def pods(namespace: str | None) -> str:
    """Pods of one namespace or of all."""
    return "/api/v1/pods" if namespace is None else collection("Pod", namespace)


def quotas(namespace: str | None) -> str:
    """ResourceQuotas of one namespace or of all."""
    scope = "" if namespace is None else f"/namespaces/{namespace}"
    return f"/api/v1{scope}/resourcequotas"


def jobs(namespace: str | None) -> str:
    """CRATrainingJobs of one namespace or of all."""
    scope = "" if namespace is None else f"/namespaces/{namespace}"
    return f"/apis/{API_VERSION}{scope}/{PLURAL}"


def job(key: JobKey) -> str:
    """One CRATrainingJob."""
    namespace, name = key
    return f"{jobs(namespace)}/{name}"
