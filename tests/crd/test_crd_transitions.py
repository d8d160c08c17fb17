"""What may change while a job lives and what may not."""

import uuid
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import pytest
from kubernetes import client
from kubernetes.client.exceptions import ApiException

from tests.crd.jobs import BUILT_IN, OWN_POD, REMOVED, JobApi, Manifest, complaints, edited

if TYPE_CHECKING:
    from e2e.local import Cluster

pytestmark = pytest.mark.cluster

POD = "spec.template.spec"

OWN_VOLUME = edited(BUILT_IN, {"metadata.name": "own-volume", "spec.checkpoint.volume": {"size": "5Gi"}})
OWN_URL = edited(BUILT_IN, {"metadata.name": "own-url", "spec.checkpoint.url": "s3://bucket"})

FROZEN: list[tuple[str, Manifest, Mapping[str, Any], str]] = [
    ("workload-name", BUILT_IN, {"spec.workload.name": "char-transformer"}, "spec.workload is immutable"),
    (
        "workload-parameters",
        BUILT_IN,
        {"spec.workload.parameters": {"width": "8"}},
        "spec.workload is immutable",
    ),
    ("image", OWN_POD, {f"{POD}.containers.0.image": "other"}, "spec.template is immutable"),
    ("side-container", OWN_POD, {f"{POD}.containers.1.image": "other"}, "spec.template is immutable"),
    ("pod-field", OWN_POD, {f"{POD}.nodeSelector": {"zone": "b"}}, "spec.template is immutable"),
    ("pod-field-added", OWN_POD, {f"{POD}.hostNetwork": True}, "spec.template is immutable"),
    ("pod-field-removed", OWN_POD, {f"{POD}.nodeSelector": REMOVED}, "spec.template is immutable"),
    (
        "pod-field-replaced-by-another",
        OWN_POD,
        {f"{POD}.nodeSelector": REMOVED, f"{POD}.schedulerName": "other"},
        "spec.template is immutable",
    ),
    (
        "container-field-replaced-by-another",
        OWN_POD,
        {f"{POD}.containers.0.command": REMOVED, f"{POD}.containers.0.args": ["train.py"]},
        "spec.template is immutable",
    ),
    (
        "template-labels",
        OWN_POD,
        {"spec.template.metadata.labels": {"team": "text"}},
        "spec.template is immutable",
    ),
    ("allocator", BUILT_IN, {"spec.allocator.ranks.strategy": "uniform"}, "spec.allocator is immutable"),
    ("seed", BUILT_IN, {"spec.training.seed": 1}, "spec.training is immutable"),
    ("epochs", BUILT_IN, {"spec.training.epochs": 11}, "spec.training is immutable"),
    (
        "volume-added",
        BUILT_IN,
        {"spec.checkpoint.volume.size": "20Gi"},
        "spec.checkpoint.volume is immutable",
    ),
    ("volume", OWN_VOLUME, {"spec.checkpoint.volume.size": "20Gi"}, "spec.checkpoint.volume is immutable"),
    (
        "volume-removed",
        OWN_VOLUME,
        {"spec.checkpoint.volume": REMOVED},
        "spec.checkpoint.volume is immutable",
    ),
    ("url-added", BUILT_IN, {"spec.checkpoint.url": "s3://bucket"}, "spec.checkpoint.url is immutable"),
    ("url", OWN_URL, {"spec.checkpoint.url": "s3://other"}, "spec.checkpoint.url is immutable"),
    ("url-removed", OWN_URL, {"spec.checkpoint.url": REMOVED}, "spec.checkpoint.url is immutable"),
    ("managed-by-added", BUILT_IN, {"spec.managedBy": "other.dev/controller"}, "spec.managedBy is immutable"),
]

FREE: list[tuple[str, Mapping[str, Any]]] = [
    ("bounds", {"spec.scaling.minGPUs": 1, "spec.scaling.maxGPUs": 16}),
    ("pinned-size", {"spec.scaling.gpus": 4}),
    ("gpus-per-worker", {"spec.scaling.gpusPerWorker": 2}),
    ("elastic", {"spec.scaling.elastic": False}),
    ("stragglers", {"spec.scaling.stragglers": "Replace"}),
    (
        "policy",
        {
            "spec.scaling.policy": "goodput",
            "spec.scaling.mode": "Recommend",
            "spec.scaling.cooldownSeconds": 0,
        },
    ),
    ("objective", {"spec.objective.beta": 0}),
    ("checkpoint-interval", {"spec.checkpoint.intervalSeconds": 5, "spec.checkpoint.keep": 1}),
    ("suspend", {"spec.suspend": True}),
    ("priority-and-queue", {"spec.priorityClassName": "high", "spec.queue": "team-a"}),
    (
        "limits",
        {
            "spec.backoffLimit": 0,
            "spec.activeDeadlineSeconds": 9,
            "spec.startupDeadlineSeconds": 9,
            "spec.ttlSecondsAfterFinished": 0,
        },
    ),
]


@pytest.fixture(scope="module")
def living(cluster: "Cluster", connection: client.ApiClient) -> Iterator[tuple[JobApi, dict[str, Manifest]]]:
    """Good jobs as stored, in a namespace that goes with the module."""
    name = f"crd-{uuid.uuid4().hex[:8]}"
    cluster.kubectl("create", "namespace", name)
    api = JobApi(connection, name)
    bases = (BUILT_IN, OWN_POD, OWN_VOLUME, OWN_URL)
    yield api, {base["metadata"]["name"]: api.create(base, keep=True) for base in bases}
    cluster.kubectl("delete", "namespace", name, "--wait=false")


@pytest.mark.parametrize(("base", "edits", "expected"), [pytest.param(*row[1:], id=row[0]) for row in FROZEN])
def test_what_the_pods_were_made_from_is_frozen(
    living: tuple[JobApi, dict[str, Manifest]], base: Manifest, edits: Mapping[str, Any], expected: str
) -> None:
    api, stored = living
    with pytest.raises(ApiException) as refused:
        api.replace(edited(stored[base["metadata"]["name"]], edits))
    (complaint,) = complaints(refused.value)
    assert expected in complaint
    assert "create it anew" in complaint


@pytest.mark.parametrize("edits", [pytest.param(edits, id=name) for name, edits in FREE])
def test_size_priority_limits_and_suspension_may_change(
    living: tuple[JobApi, dict[str, Manifest]], edits: Mapping[str, Any]
) -> None:
    api, stored = living
    after = api.replace(edited(stored["built-in"], edits))
    assert after == edited(after, edits)


def test_a_pinned_size_is_released_by_removing_it(living: tuple[JobApi, dict[str, Manifest]]) -> None:
    api, stored = living
    pinned = api.replace(edited(stored["built-in"], {"spec.scaling.gpus": 4}))
    assert pinned["spec"]["scaling"]["gpus"] == 4
    released = api.replace(edited(stored["built-in"], {}))
    assert "gpus" not in released["spec"]["scaling"]


def test_a_workload_cannot_become_a_template(living: tuple[JobApi, dict[str, Manifest]]) -> None:
    api, stored = living
    turned = edited(
        stored["built-in"], {"spec.workload": REMOVED, "spec.template": OWN_POD["spec"]["template"]}
    )
    with pytest.raises(ApiException) as refused:
        api.replace(turned)
    found = " ".join(complaints(refused.value))
    assert "spec.workload is immutable" in found
    assert "spec.template is immutable" in found
