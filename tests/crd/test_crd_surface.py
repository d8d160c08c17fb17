"""What a user meets besides refusals: defaults, columns, /scale, explain, and the examples."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from kubernetes.client.exceptions import ApiException

from tests.crd.jobs import BUILT_IN, OWN_POD, JobApi, Manifest, complaints, edited

if TYPE_CHECKING:
    from e2e.local import Cluster

REPOSITORY = Path(__file__).resolve().parents[2]
CRD: Manifest = yaml.safe_load((REPOSITORY / "crds" / "cra.dev_cratrainingjobs.yaml").read_text())
SCHEMA: Manifest = CRD["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
EXAMPLES = sorted((REPOSITORY / "examples").glob("*.yaml"))

STATUS: Manifest = {
    "phase": "Running",
    "gpus": 4,
    "restarts": 2,
    "selector": "cra.dev/job=built-in",
    "message": "4 workers train",
    "display": {
        "phase": "Running",
        "gpus": "4/2-8",
        "progress": "37%",
        "eta": "3m",
        "utilization": "81%",
        "reward": "1.42",
    },
    "policy": "attention",
    "recommendedGPUs": 8,
    "reward": 1.42,
    "batchSize": 256,
    "noiseScale": 812.5,
    "speeds": [
        {
            "gpus": 2,
            "nodes": 1,
            "gpuType": "SimGPU-A",
            "batchSize": 256,
            "stepSeconds": 0.41,
            "computeSeconds": 0.3,
        }
    ],
    "gpuTypes": [{"gpuType": "SimGPU-A", "samplesPerSecond": 1240, "time": "2026-01-01T00:00:00Z"}],
    "startEstimate": "2026-01-01T00:00:00Z",
    "lastDecision": {
        "from": 2,
        "to": 4,
        "reason": "Gain",
        "message": "2 to 4: 38% sooner",
        "policy": "attention",
        "gpuType": "SimGPU-A",
        "weight": 0.25,
        "expectedGain": 0.38,
        "applied": True,
    },
    "workers": [
        {"rank": 0, "pod": "built-in-1-0", "share": 0.5},
        {"rank": 1, "pod": "built-in-1-1", "share": 0.5},
    ],
    "generation": 2,
    "run": {"gpus": 4, "joining": 2, "missedGPUs": 8, "setbacks": 1},
    "gpuSeconds": 1.5,
    "gpuSecondsTime": "2026-01-01T00:00:00Z",
    "pauseSeconds": 0.31,
}


def nodes(schema: Manifest, path: str = "") -> Iterator[tuple[str, Manifest]]:
    """Every schema below this one with its path."""
    for name, child in schema.get("properties", {}).items():
        yield f"{path}.{name}", child
        yield from nodes(child, f"{path}.{name}")
    if "items" in schema:
        yield from nodes(schema["items"], f"{path}[]")


def test_every_field_is_described() -> None:
    undescribed = [
        path for path, schema in nodes(SCHEMA) if path != ".metadata" and not schema.get("description")
    ]
    assert undescribed == []


def test_every_list_is_bounded_and_has_a_merge_rule() -> None:
    lists = {path: schema for path, schema in nodes(SCHEMA) if schema.get("type") == "array"}
    assert lists.keys() >= {".spec.allocator.ranks.weights", ".status.workers", ".status.decisions"}
    assert [path for path, schema in lists.items() if "maxItems" not in schema] == []
    assert [path for path, schema in lists.items() if "x-kubernetes-list-type" not in schema] == []


def test_only_the_pod_template_is_open() -> None:
    open_ = {path for path, schema in nodes(SCHEMA) if schema.get("x-kubernetes-preserve-unknown-fields")}
    assert open_
    assert all(path.startswith(".spec.template.") for path in open_)


@pytest.mark.cluster
def test_the_smallest_job_gets_every_default(jobs: JobApi) -> None:
    smallest = {**BUILT_IN, "spec": {"workload": {"name": "digits-cnn"}, "scaling": {"maxGPUs": 8}}}
    assert jobs.create(smallest)["spec"] == {
        "workload": {"name": "digits-cnn"},
        "scaling": {
            "minGPUs": 1,
            "maxGPUs": 8,
            "gpusPerWorker": 1,
            "mode": "Auto",
            "cooldownSeconds": 60,
            "stragglers": "Report",
        },
        "objective": {"alpha": 1, "beta": 1},
        "allocator": {
            "ranks": {"strategy": "attention", "heads": 4, "learn": "gradient", "seed": 0},
            "layers": {"computeBudget": 1, "learn": "none"},
            "tasks": {"strategy": "uniform", "good": 0.9, "poor": 0.5},
        },
        "training": {
            "epochs": 10,
            "batchSize": 64,
            "optimizer": {"name": "adam", "learningRate": 0.001, "weightDecay": 0},
            "learningRateRule": "fixed",
            "seed": 0,
            "tracking": {"tensorboard": True},
        },
        "checkpoint": {"intervalSeconds": 60, "keep": 3},
        "suspend": False,
        "backoffLimit": 3,
        "startupDeadlineSeconds": 600,
    }


@pytest.mark.cluster
@pytest.mark.parametrize(
    ("given", "path", "filled"),
    [
        ({"spec.objective": {"alpha": 0}}, "objective", {"alpha": 0, "beta": 1}),
        ({"spec.allocator": {"ranks": {"heads": 2}}}, "allocator.ranks.strategy", "attention"),
        (
            {"spec.training": {"targetMetric": {"name": "accuracy", "value": 0.9}}},
            "training.targetMetric.mode",
            "max",
        ),
        ({"spec.training": {"earlyStopping": {"patience": 2}}}, "training.earlyStopping.minDelta", 0),
        ({"spec.checkpoint": {"volume": {"claimName": "mine"}}}, "checkpoint.volume", {"claimName": "mine"}),
        ({"spec.checkpoint": {"url": "s3://bucket"}}, "checkpoint.keep", 3),
    ],
)
def test_what_is_given_in_part_is_filled_up(jobs: JobApi, given: Manifest, path: str, filled: Any) -> None:
    found: Any = jobs.create(edited(BUILT_IN, given))["spec"]
    for key in path.split("."):
        found = found[key]
    assert found == filled


@pytest.mark.cluster
def test_a_range_of_gpus_per_worker_and_all_weights_are_accepted(jobs: JobApi) -> None:
    job = edited(
        BUILT_IN,
        {
            "spec.scaling.gpusPerWorker": "1-4",
            "spec.scaling.gpus": 7,
            "spec.allocator.ranks": {"strategy": "fixed", "weights": [0.5] * 8},
            "spec.managedBy": "kueue.x-k8s.io/multikueue",
        },
    )
    assert jobs.create(job)["spec"]["scaling"]["gpusPerWorker"] == "1-4"


@pytest.mark.cluster
def test_the_largest_job_fits_the_cost_limits_of_the_rules(jobs: JobApi) -> None:
    job = edited(
        BUILT_IN,
        {
            "spec.scaling.maxGPUs": 4096,
            "spec.training.batchSize": 4096,
            "spec.allocator.ranks": {"strategy": "fixed", "weights": [1] * 4096},
            "spec.workload.parameters": {f"p{i}": "x" * 1024 for i in range(32)},
        },
    )
    assert len(jobs.create(job)["spec"]["allocator"]["ranks"]["weights"]) == 4096


@pytest.mark.cluster
def test_a_client_that_does_not_ask_for_strictness_has_unknown_fields_dropped(jobs: JobApi) -> None:
    assert (
        "suspended"
        not in jobs.create(edited(BUILT_IN, {"spec.suspended": True}), validation="Ignore")["spec"]
    )


@pytest.mark.cluster
def test_the_pod_template_is_kept_as_written(jobs: JobApi) -> None:
    pod = {
        "runtimeClassName": "nvidia",
        "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "data", "readOnly": True}}],
        "tolerations": [{"key": "gpu", "operator": "Exists"}],
    }
    job = edited(OWN_POD, {f"spec.template.spec.{key}": value for key, value in pod.items()})
    assert jobs.create(job)["spec"]["template"] == job["spec"]["template"]


@pytest.mark.cluster
def test_the_template_declares_all_pod_fields_that_the_server_knows(cluster: "Cluster") -> None:
    """Immutability of the template rests on it: see the note in the CRD."""
    known = json.loads(cluster.kubectl("get", "--raw", "/openapi/v3/api/v1"))["components"]["schemas"]
    pod = SCHEMA["properties"]["spec"]["properties"]["template"]["properties"]["spec"]["properties"]
    fields = {
        name: set(known[f"io.k8s.api.core.v1.{name}"]["properties"]) for name in ("PodSpec", "Container")
    }
    assert fields["PodSpec"] - {"ephemeralContainers"} <= pod.keys()
    assert fields["Container"] <= pod["containers"]["items"]["properties"].keys()
    assert fields["Container"] <= pod["initContainers"]["items"]["properties"].keys()


@pytest.mark.cluster
def test_kubectl_get_shows_the_columns(cluster: "Cluster", stored_jobs: JobApi, namespace: str) -> None:
    stored_jobs.create(BUILT_IN, keep=True)
    job = stored_jobs.create(edited(BUILT_IN, {"metadata.name": "second", "spec.queue": "team-a"}), keep=True)
    stored_jobs.replace_status({**job, "status": STATUS}, keep=True)

    header, *rows = cluster.kubectl("get", "crj", "-n", namespace).splitlines()
    assert header.split() == ["NAME", "PHASE", "GPUS", "PROGRESS", "ETA", "UTIL", "REWARD", "RESTARTS", "AGE"]
    assert rows[1].split()[:8] == ["second", "Running", "4/2-8", "37%", "3m", "81%", "1.42", "2"]

    header, *rows = cluster.kubectl("get", "crj", "-n", namespace, "-o", "wide").splitlines()
    assert header.split()[9:] == ["POLICY", "QUEUE", "DECISION", "MESSAGE"]
    assert rows[1].split()[9:] == [
        "attention",
        "team-a",
        *["2", "to", "4:", "38%", "sooner"],
        *["4", "workers", "train"],
    ]

    assert "cratrainingjob.cra.dev/built-in" in cluster.kubectl("get", "all", "-n", namespace, "-o", "name")


@pytest.mark.cluster
def test_scale_pins_the_size_and_reports_the_live_one(
    cluster: "Cluster", stored_jobs: JobApi, namespace: str
) -> None:
    job = stored_jobs.create(BUILT_IN, keep=True)
    stored_jobs.replace_status({**job, "status": STATUS}, keep=True)

    cluster.kubectl("scale", "crj", "built-in", "-n", namespace, "--replicas=6")
    path = f"/apis/cra.dev/v1alpha1/namespaces/{namespace}/cratrainingjobs/built-in"
    assert json.loads(cluster.kubectl("get", "--raw", path))["spec"]["scaling"]["gpus"] == 6
    scale = json.loads(cluster.kubectl("get", "--raw", f"{path}/scale"))
    assert scale["spec"]["replicas"] == 6
    assert scale["status"] == {"replicas": 4, "selector": "cra.dev/job=built-in"}

    with pytest.raises(ApiException) as refused:
        stored_jobs.scale("built-in", 9)
    assert (
        "spec.scaling.gpus (9) must lie between minGPUs (2) and maxGPUs (8)" in complaints(refused.value)[0]
    )


@pytest.mark.cluster
def test_status_is_typed_and_apart_from_the_spec(stored_jobs: JobApi) -> None:
    job = stored_jobs.create({**BUILT_IN, "status": {"phase": "Succeeded"}}, keep=True)
    assert "status" not in job
    with pytest.raises(ApiException) as refused:
        stored_jobs.replace_status({**job, "status": {"phase": "Dancing"}})
    assert "status.phase" in complaints(refused.value)[0]
    with pytest.raises(ApiException) as refused:
        stored_jobs.replace_status({**job, "status": {"workers": [{"rank": 0}, {"rank": 0}]}})
    assert "status.workers[1]" in complaints(refused.value)[0]
    after = stored_jobs.replace_status({**edited(job, {"spec.suspend": True}), "status": STATUS}, keep=True)
    assert after["spec"]["suspend"] is False
    assert after["status"] == STATUS


@pytest.mark.cluster
def test_kubectl_explain_tells_defaults_and_effects(cluster: "Cluster") -> None:
    told = " ".join(cluster.kubectl("explain", "crj.spec.scaling").split())
    assert "`kubectl scale crj NAME --replicas N`" in told
    assert "gpusPerWorker" in told
    assert "Default 60." in told


@pytest.mark.cluster
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_every_example_is_accepted(cluster: "Cluster", path: Path) -> None:
    said = cluster.kubectl("apply", "--dry-run=server", "--validate=strict", "-f", str(path))
    assert "cratrainingjob.cra.dev/" in said


def test_there_are_examples() -> None:
    names = {path.name for path in EXAMPLES}
    assert names >= {"digits-cnn.yaml", "char-transformer.yaml", "custom-script.yaml", "torchrun-script.yaml"}
