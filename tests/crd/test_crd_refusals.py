"""What cannot work is refused by the API server, with a message that names the field and the fix.

Each row is one edit of a good manifest and what the answer must hold. The rows run against the real server as
dry runs, so that defaults, schema and CEL rules all have their say.
"""

from collections.abc import Mapping
from typing import Any

import pytest
from kubernetes.client.exceptions import ApiException

from tests.crd.jobs import BUILT_IN, OWN_POD, REMOVED, JobApi, Manifest, complaints, edited

pytestmark = pytest.mark.cluster

POD = "spec.template.spec"
TRAINER = f"{POD}.containers.0"
SIDECAR = {"name": "sidecar", "image": "x"}

REFUSED: list[tuple[str, Manifest, Mapping[str, Any], tuple[str, ...]]] = [
    # name
    (
        "name-too-long",
        BUILT_IN,
        {"metadata.name": "a" * 41},
        ("metadata.name", "at most 40 characters", "shorter"),
    ),
    ("name-with-dot", BUILT_IN, {"metadata.name": "a.b"}, ("metadata.name", "a-z, 0-9 and '-'")),
    ("name-starts-with-digit", BUILT_IN, {"metadata.name": "1a"}, ("metadata.name", "begin with a letter")),
    # what to run
    ("spec-missing", BUILT_IN, {"spec": REMOVED}, ("spec", "Required value")),
    ("nothing-to-run", BUILT_IN, {"spec.workload": REMOVED}, ("set one of spec.workload", "spec.template")),
    (
        "two-things-to-run",
        OWN_POD,
        {"spec.workload": {"name": "digits-cnn"}},
        ("spec.workload and spec.template exclude each other", "remove the other"),
    ),
    (
        "workload-unknown",
        BUILT_IN,
        {"spec.workload.name": "imagenet"},
        ("spec.workload.name", '"imagenet"', 'supported values: "digits-cnn", "attention-28x28"'),
    ),
    ("workload-unnamed", BUILT_IN, {"spec.workload": {}}, ("spec.workload.name", "Required value")),
    (
        "parameter-not-text",
        BUILT_IN,
        {"spec.workload.parameters": {"width": 3}},
        ("spec.workload.parameters.width", "must be of type string"),
    ),
    (
        "too-many-parameters",
        BUILT_IN,
        {"spec.workload.parameters": {f"p{i}": "" for i in range(33)}},
        ("spec.workload.parameters", "Too many", "at most 32"),
    ),
    # the user's own pod
    (
        "template-without-spec",
        OWN_POD,
        {"spec.template.spec": REMOVED},
        ("spec.template.spec", "Required value"),
    ),
    ("no-containers", OWN_POD, {f"{POD}.containers": []}, (f"{POD}.containers", "at least 1 items")),
    (
        "no-container-trainer",
        OWN_POD,
        {f"{TRAINER}.name": "main"},
        (f"{POD}.containers", "'trainer'", "name the"),
    ),
    (
        "two-containers-of-one-name",
        OWN_POD,
        {f"{POD}.containers.1.name": "trainer"},
        (f"{POD}.containers[1]", "Duplicate value"),
    ),
    (
        "container-without-image",
        OWN_POD,
        {f"{TRAINER}.image": REMOVED},
        ("containers[0].image", "Required value"),
    ),
    (
        "restarted-by-kubelet",
        OWN_POD,
        {f"{POD}.restartPolicy": "OnFailure"},
        (f"{POD}.restartPolicy", "set Never"),
    ),
    (
        "gpu-limit-in-template",
        OWN_POD,
        {f"{TRAINER}.resources": {"limits": {"nvidia.com/gpu": 1}}},
        ("containers[0].resources", "nvidia.com/gpu", "set spec.scaling.gpusPerWorker"),
    ),
    (
        "gpu-request-in-template",
        OWN_POD,
        {f"{TRAINER}.resources": {"requests": {"nvidia.com/gpu": "1"}}},
        ("containers[0].resources", "nvidia.com/gpu", "set spec.scaling.gpusPerWorker"),
    ),
    (
        "gpu-limit-in-init-container",
        OWN_POD,
        {f"{POD}.initContainers": [{**SIDECAR, "name": "i", "resources": {"limits": {"nvidia.com/gpu": 1}}}]},
        ("initContainers[0].resources", "nvidia.com/gpu", "set spec.scaling.gpusPerWorker"),
    ),
    (
        "operator-label-in-template",
        OWN_POD,
        {"spec.template.metadata.labels": {"cra.dev/rank": "0"}},
        ("spec.template.metadata.labels", "cra.dev/", "remove or rename"),
    ),
    # size
    ("scaling-missing", BUILT_IN, {"spec.scaling": REMOVED}, ("spec.scaling", "Required value")),
    ("max-missing", BUILT_IN, {"spec.scaling": {"minGPUs": 1}}, ("spec.scaling.maxGPUs", "Required value")),
    (
        "max-zero",
        BUILT_IN,
        {"spec.scaling.maxGPUs": 0},
        ("spec.scaling.maxGPUs", "greater than or equal to 1"),
    ),
    (
        "max-too-large",
        BUILT_IN,
        {"spec.scaling.maxGPUs": 4097},
        ("spec.scaling.maxGPUs", "less than or equal to 4096"),
    ),
    (
        "max-as-text",
        BUILT_IN,
        {"spec.scaling.maxGPUs": "8"},
        ("spec.scaling.maxGPUs", "must be of type integer"),
    ),
    (
        "max-a-fraction",
        BUILT_IN,
        {"spec.scaling.maxGPUs": 2.5},
        ("spec.scaling.maxGPUs", "must be of type integer"),
    ),
    (
        "min-zero",
        BUILT_IN,
        {"spec.scaling.minGPUs": 0},
        ("spec.scaling.minGPUs", "greater than or equal to 1"),
    ),
    (
        "min-above-max",
        BUILT_IN,
        {"spec.scaling.minGPUs": 9},
        ("spec.scaling.minGPUs (9) must not be above maxGPUs (8)", "lower minGPUs or raise maxGPUs"),
    ),
    (
        "pinned-below-min",
        BUILT_IN,
        {"spec.scaling.gpus": 1},
        ("spec.scaling.gpus (1) must lie between minGPUs (2) and maxGPUs (8)", "choose a size in that range"),
    ),
    (
        "pinned-above-max",
        BUILT_IN,
        {"spec.scaling.gpus": 9},
        ("spec.scaling.gpus (9) must lie between minGPUs (2) and maxGPUs (8)", "choose a size in that range"),
    ),
    (
        "pinned-not-a-multiple",
        BUILT_IN,
        {"spec.scaling.gpusPerWorker": 2, "spec.scaling.gpus": 3},
        ("spec.scaling.gpus (3) must be a multiple of gpusPerWorker (2)", "choose 4"),
    ),
    (
        "min-not-a-multiple",
        BUILT_IN,
        {"spec.scaling.gpusPerWorker": 4},
        ("spec.scaling.minGPUs (2) must be a multiple of gpusPerWorker (4)", "choose 4"),
    ),
    (
        "max-not-a-multiple",
        BUILT_IN,
        {"spec.scaling.gpusPerWorker": 2, "spec.scaling.maxGPUs": 7},
        ("spec.scaling.maxGPUs (7) must be a multiple of gpusPerWorker (2)", "choose 8"),
    ),
    (
        "no-gpus-per-worker",
        BUILT_IN,
        {"spec.scaling.gpusPerWorker": 0},
        ("gpusPerWorker", "a number from 1 to 64"),
    ),
    ("falling-range", BUILT_IN, {"spec.scaling.gpusPerWorker": "4-1"}, ("gpusPerWorker", 'such as "1-4"')),
    ("malformed-range", BUILT_IN, {"spec.scaling.gpusPerWorker": "1..4"}, ("gpusPerWorker", 'such as "1-4"')),
    (
        "number-in-quotes",
        BUILT_IN,
        {"spec.scaling.gpusPerWorker": "2"},
        ("gpusPerWorker", "a number from 1 to 64, such as 2"),
    ),
    (
        "policy-unknown",
        BUILT_IN,
        {"spec.scaling.policy": "best"},
        ("spec.scaling.policy", '"best"', 'supported values: "static", "uniform"'),
    ),
    (
        "mode-unknown",
        BUILT_IN,
        {"spec.scaling.mode": "auto"},
        ("spec.scaling.mode", '"Auto", "Recommend", "Off"'),
    ),
    (
        "elastic-not-boolean",
        BUILT_IN,
        {"spec.scaling.elastic": "yes"},
        ("spec.scaling.elastic", "must be of type boolean"),
    ),
    (
        "cooldown-negative",
        BUILT_IN,
        {"spec.scaling.cooldownSeconds": -1},
        ("spec.scaling.cooldownSeconds", "greater than or equal to 0"),
    ),
    (
        "stragglers-unknown",
        BUILT_IN,
        {"spec.scaling.stragglers": "Ignore"},
        ("spec.scaling.stragglers", '"Report", "Replace"'),
    ),
    (
        "stragglers-of-a-script-that-is-not-elastic",
        OWN_POD,
        {"spec.scaling.stragglers": "Replace"},
        ("spec.scaling.stragglers", "set spec.scaling.elastic to true"),
    ),
    (
        "stragglers-of-a-workload-made-rigid",
        BUILT_IN,
        {"spec.scaling.stragglers": "Replace", "spec.scaling.elastic": False},
        ("spec.scaling.stragglers", "stragglers to Report"),
    ),
    # objective
    (
        "objective-empty",
        BUILT_IN,
        {"spec.objective": {"alpha": 0, "beta": 0}},
        ("spec.objective.alpha and spec.objective.beta must not both be 0", "set at least one above 0"),
    ),
    (
        "alpha-negative",
        BUILT_IN,
        {"spec.objective.alpha": -1},
        ("spec.objective.alpha", "greater than or equal to 0"),
    ),
    # allocator
    (
        "rank-strategy-unknown",
        BUILT_IN,
        {"spec.allocator.ranks.strategy": "fair"},
        ("spec.allocator.ranks.strategy", 'supported values: "attention"'),
    ),
    (
        "fixed-without-weights",
        BUILT_IN,
        {"spec.allocator.ranks.strategy": "fixed"},
        ("spec.allocator.ranks.strategy fixed needs weights", "add spec.allocator.ranks.weights"),
    ),
    (
        "weights-without-fixed",
        BUILT_IN,
        {"spec.allocator.ranks.weights": [1] * 8},
        (
            "spec.allocator.ranks.weights is only for strategy fixed or priority, not attention",
            "remove weights or set strategy",
        ),
    ),
    (
        "priority-in-halves",
        BUILT_IN,
        {"spec.allocator.ranks": {"strategy": "priority", "weights": [1.5] * 8}},
        ("spec.allocator.ranks.weights of strategy priority are whole numbers", "round them"),
    ),
    (
        "learning-unknown",
        BUILT_IN,
        {"spec.allocator.ranks.learn": "luck"},
        ("spec.allocator.ranks.learn", 'supported values: "gradient", "reward"'),
    ),
    (
        "too-few-weights",
        BUILT_IN,
        {"spec.allocator.ranks": {"strategy": "fixed", "weights": [1, 2]}},
        ("spec.allocator.ranks.weights has 2 entries, spec.scaling.maxGPUs is 8", "one weight for each GPU"),
    ),
    (
        "weight-zero",
        BUILT_IN,
        {"spec.allocator.ranks": {"strategy": "fixed", "weights": [1] * 7 + [0]}},
        ("spec.allocator.ranks.weights[7]", "greater than 0"),
    ),
    (
        "no-heads",
        BUILT_IN,
        {"spec.allocator.ranks.heads": 0},
        ("allocator.ranks.heads", "greater than or equal to 1"),
    ),
    (
        "many-heads",
        BUILT_IN,
        {"spec.allocator.ranks.heads": 17},
        ("allocator.ranks.heads", "less than or equal to 16"),
    ),
    (
        "no-compute-budget",
        BUILT_IN,
        {"spec.allocator.layers.computeBudget": 0},
        ("spec.allocator.layers.computeBudget", "greater than 0"),
    ),
    (
        "compute-budget-above-all",
        BUILT_IN,
        {"spec.allocator.layers.computeBudget": 1.1},
        ("spec.allocator.layers.computeBudget", "less than or equal to 1"),
    ),
    (
        "layer-learning",
        BUILT_IN,
        {"spec.allocator.layers.learn": "gradient"},
        ("layers.learn", '"none", "reward"'),
    ),
    (
        "task-strategy",
        BUILT_IN,
        {"spec.allocator.tasks.strategy": "x"},
        ("tasks.strategy", '"uniform", "adaptive", "performance"'),
    ),
    (
        "task-thresholds",
        BUILT_IN,
        {"spec.allocator.tasks.poor": 0.9},
        ("spec.allocator.tasks.poor must be less than good",),
    ),
    # training
    (
        "no-epochs",
        BUILT_IN,
        {"spec.training.epochs": 0},
        ("spec.training.epochs", "greater than or equal to 1"),
    ),
    (
        "batch-smaller-than-size",
        BUILT_IN,
        {"spec.training.batchSize": 4},
        (
            "spec.training.batchSize (4) must be at least spec.scaling.maxGPUs (8)",
            "raise batchSize or lower maxGPUs",
        ),
    ),
    (
        "size-larger-than-default-batch",
        BUILT_IN,
        {"spec.scaling.maxGPUs": 65},
        (
            "spec.training.batchSize (64) must be at least spec.scaling.maxGPUs (65)",
            "raise batchSize or lower maxGPUs",
        ),
    ),
    (
        "min-batch-above-batch",
        BUILT_IN,
        {"spec.training.minBatchSize": 65},
        (
            "spec.training.minBatchSize (65) must not be above batchSize (64)",
            "lower minBatchSize or raise batchSize",
        ),
    ),
    (
        "max-batch-below-batch",
        BUILT_IN,
        {"spec.training.maxBatchSize": 63},
        (
            "spec.training.maxBatchSize (63) must not be below batchSize (64)",
            "raise maxBatchSize or lower batchSize",
        ),
    ),
    (
        "optimizer-unknown",
        BUILT_IN,
        {"spec.training.optimizer.name": "lion"},
        ("optimizer.name", '"sgd", "adam"'),
    ),
    (
        "no-learning-rate",
        BUILT_IN,
        {"spec.training.optimizer.learningRate": 0},
        ("learningRate", "greater than 0"),
    ),
    (
        "weight-decay",
        BUILT_IN,
        {"spec.training.optimizer.weightDecay": -1},
        ("weightDecay", "greater than or equal to 0"),
    ),
    (
        "rate-rule-unknown",
        BUILT_IN,
        {"spec.training.learningRateRule": "cubic"},
        ("learningRateRule", '"fixed", "linear"'),
    ),
    (
        "target-without-value",
        BUILT_IN,
        {"spec.training.targetMetric": {"name": "a"}},
        ("targetMetric.value", "Required"),
    ),
    (
        "target-mode",
        BUILT_IN,
        {"spec.training.targetMetric": {"name": "a", "value": 1, "mode": "up"}},
        ("spec.training.targetMetric.mode", 'supported values: "max", "min"'),
    ),
    (
        "no-patience",
        BUILT_IN,
        {"spec.training.earlyStopping": {}},
        ("earlyStopping.patience", "Required value"),
    ),
    (
        "wandb-without-secret",
        BUILT_IN,
        {"spec.training.tracking.wandb": {"project": "p"}},
        ("wandb.secretName", "Required"),
    ),
    (
        "seed-negative",
        BUILT_IN,
        {"spec.training.seed": -1},
        ("spec.training.seed", "greater than or equal to 0"),
    ),
    # checkpoint
    (
        "interval-zero",
        BUILT_IN,
        {"spec.checkpoint.intervalSeconds": 0},
        ("intervalSeconds", "greater than or equal to 1"),
    ),
    (
        "keeps-none",
        BUILT_IN,
        {"spec.checkpoint.keep": 0},
        ("spec.checkpoint.keep", "greater than or equal to 1"),
    ),
    (
        "claim-and-size",
        BUILT_IN,
        {"spec.checkpoint.volume": {"claimName": "c", "size": "1Gi"}},
        ("spec.checkpoint.volume.claimName excludes size and storageClassName", "keep claimName for"),
    ),
    (
        "claim-and-class",
        BUILT_IN,
        {"spec.checkpoint.volume": {"claimName": "c", "storageClassName": "s"}},
        ("spec.checkpoint.volume.claimName excludes size and storageClassName", "keep claimName for"),
    ),
    (
        "volume-size",
        BUILT_IN,
        {"spec.checkpoint.volume": {"size": "10GB?"}},
        ("checkpoint.volume.size", "such as 10Gi"),
    ),
    (
        "volume-size-negative",
        BUILT_IN,
        {"spec.checkpoint.volume": {"size": "-1Gi"}},
        ("volume.size", "above 0"),
    ),
    (
        "url-and-volume",
        BUILT_IN,
        {"spec.checkpoint": {"url": "s3://bucket", "volume": {"claimName": "c"}}},
        ("spec.checkpoint.url excludes spec.checkpoint.volume", "keep url for an object store"),
    ),
    (
        "url-without-scheme",
        BUILT_IN,
        {"spec.checkpoint.url": "bucket/folder"},
        ("spec.checkpoint.url must be a URL", "such as s3://bucket/folder"),
    ),
    (
        "url-with-blanks",
        BUILT_IN,
        {"spec.checkpoint.url": "s3://bucket/my folder"},
        ("spec.checkpoint.url must be a URL", "such as s3://bucket/folder"),
    ),
    # life
    ("suspend-as-text", BUILT_IN, {"spec.suspend": "yes"}, ("spec.suspend", "must be of type boolean")),
    ("queue-name", BUILT_IN, {"spec.queue": "Team A"}, ("spec.queue", "should match")),
    (
        "backoff-negative",
        BUILT_IN,
        {"spec.backoffLimit": -1},
        ("spec.backoffLimit", "greater than or equal to 0"),
    ),
    (
        "backoff-endless",
        BUILT_IN,
        {"spec.backoffLimit": 101},
        ("spec.backoffLimit", "less than or equal to 100"),
    ),
    (
        "active-deadline",
        BUILT_IN,
        {"spec.activeDeadlineSeconds": 0},
        ("activeDeadlineSeconds", "greater than or equal to 1"),
    ),
    (
        "startup-deadline",
        BUILT_IN,
        {"spec.startupDeadlineSeconds": 0},
        ("startupDeadlineSeconds", "greater than or equal to 1"),
    ),
    (
        "ttl-negative",
        BUILT_IN,
        {"spec.ttlSecondsAfterFinished": -1},
        ("ttlSecondsAfterFinished", "greater than or equal to 0"),
    ),
    (
        "managed-by-form",
        BUILT_IN,
        {"spec.managedBy": "kueue"},
        ("spec.managedBy", "such as cra.dev/operator"),
    ),
    # fields that are not there
    ("typo-in-spec", BUILT_IN, {"spec.suspended": True}, ('unknown field "spec.suspended"',)),
    ("typo-in-scaling", BUILT_IN, {"spec.scaling.maxGpus": 8}, ('unknown field "spec.scaling.maxGpus"',)),
    (
        "typo-deep",
        BUILT_IN,
        {"spec.training.optimizer.lr": 1},
        ('unknown field "spec.training.optimizer.lr"',),
    ),
]


@pytest.mark.parametrize(
    ("base", "edits", "expected"), [pytest.param(*row[1:], id=row[0]) for row in REFUSED]
)
def test_a_bad_manifest_is_refused_with_field_and_fix(
    jobs: JobApi, base: Manifest, edits: Mapping[str, Any], expected: tuple[str, ...]
) -> None:
    with pytest.raises(ApiException) as refused:
        jobs.create(edited(base, edits))
    assert refused.value.status in (400, 422)
    found = complaints(refused.value)
    assert any(all(part in complaint for part in expected) for complaint in found), found


def test_the_table_is_large_and_its_bases_are_good(jobs: JobApi) -> None:
    assert len(REFUSED) >= 40
    for manifest in (BUILT_IN, OWN_POD):
        assert jobs.create(manifest)["spec"]["suspend"] is False
