"""Manifests of a job's children, as pure functions of the job: pods, headless Service, checkpoint claim.

The user's template wins wherever it speaks, except for what makes the job a job: names, labels, GPUs, the
environment of the pod contract, where rank 0 keeps checkpoints. Security settings are filled in where the
template is silent, so that the pods pass the `restricted` Pod Security Standard by default.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable
from typing import Any

from cra_operator import names
from cra_operator.api import API_VERSION, KIND, Job, VolumeSpec
from cra_operator.sizing import Cohort

Manifest = dict[str, Any]

_GRACE_SECONDS = 60
"""Time to finish a step and to write a checkpoint after SIGTERM; trainers usually need a fraction of it."""
_FILE_GROUP = 65532
_CLAIM_SIZE = "10Gi"
_STRONGEST = 100
"""Weight of a preference among nodes, of 1 to 100."""
_LOST_NODE_SECONDS = 30
"""How long a pod stays bound to a node that does not answer before Kubernetes evicts it (its default is 300).
"""


def _owner(job: Job) -> Manifest:
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "name": job.metadata.name,
        "uid": job.metadata.uid,
        "controller": True,
        "blockOwnerDeletion": True,
    }


def _labels(job: Job) -> dict[str, str]:
    return {
        names.JOB_LABEL: job.metadata.name,
        names.APP_LABEL: names.TRAINER_APP,
        names.MANAGED_BY_LABEL: names.APP,
    }


def _metadata(job: Job, name: str) -> Manifest:
    return {
        "name": name,
        "namespace": job.metadata.namespace,
        "labels": _labels(job),
        "ownerReferences": [_owner(job)],
    }


def service(job: Job) -> Manifest:
    """The headless Service under which ranks find each other, ready or not."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _metadata(job, job.metadata.name),
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": {names.JOB_LABEL: job.metadata.name},
            "ports": [
                {"name": "rendezvous", "port": names.MASTER_PORT},
                {"name": names.METRICS_PORT_NAME, "port": names.METRICS_PORT},
            ],
        },
    }


def claim(job: Job) -> Manifest | None:
    """The checkpoint claim, or None where the user brings one or keeps checkpoints elsewhere."""
    volume = job.spec.checkpoint.volume or VolumeSpec()
    if job.spec.checkpoint.url is not None or volume.claim_name is not None:
        return None
    spec: Manifest = {
        "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": volume.size or _CLAIM_SIZE}},
    }
    if volume.storage_class_name is not None:
        spec["storageClassName"] = volume.storage_class_name
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": _metadata(job, names.claim_name(job.metadata.name)),
        "spec": spec,
    }


def pod(
    job: Job, *, cohort: Cohort, rank: int, image: str, image_pull_policy: str, gpu_type: str | None = None
) -> Manifest:
    """One pod of a cohort.

    Args:
        job: The owner.
        cohort: The pods that are created together.
        rank: Place of the pod in the run.
        image: Trainer image for built-in workloads.
        image_pull_policy: Pull policy for that image.
        gpu_type: The type of GPU that the pod had best be on.
    """
    template = _template(job, image, image_pull_policy)
    spec: Manifest = template["spec"]
    metadata: Manifest = template.get("metadata") or {}
    name = names.pod_name(job.metadata.name, cohort.generation, rank)
    labels = {
        **(metadata.get("labels") or {}),
        **_labels(job),
        names.GENERATION_LABEL: str(cohort.generation),
        names.RUN_LABEL: str(cohort.run),
        names.RANK_LABEL: str(rank),
    }
    annotations = {
        "prometheus.io/scrape": "true",
        "prometheus.io/port": str(names.METRICS_PORT),
        "prometheus.io/path": "/metrics",
        **(metadata.get("annotations") or {}),
        names.WORKERS_ANNOTATION: str(cohort.size.workers),
    }
    if cohort.joins:
        annotations[names.JOINING_ANNOTATION] = names.spell_ranks(cohort.ranks)
    spec |= {"restartPolicy": "Never", "hostname": name, "subdomain": job.metadata.name}
    if job.spec.priority_class_name is not None:
        spec["priorityClassName"] = job.spec.priority_class_name
    spec.setdefault("terminationGracePeriodSeconds", _GRACE_SECONDS)
    spec.setdefault("enableServiceLinks", False)
    spec["tolerations"] = [*(spec.get("tolerations") or ()), *_tolerations(spec.get("tolerations") or ())]
    _keep_away(spec, cohort.avoid)
    if gpu_type is not None:
        _prefer(spec, gpu_type)
    trainer = next(c for c in spec["containers"] if c["name"] == names.TRAINER_CONTAINER)
    _equip(trainer, job, cohort, rank)
    if rank == 0 and job.spec.checkpoint.url is None:
        _mount_checkpoint(spec, trainer, job)
    _restrict(spec)
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {**_metadata(job, name), "labels": labels, "annotations": annotations},
        "spec": spec,
    }


def _template(job: Job, image: str, image_pull_policy: str) -> Manifest:
    """The user's template, or the one of the built-in workload."""
    if job.spec.template is not None:
        return copy.deepcopy(job.spec.template)
    assert job.spec.workload is not None, "the API server admits no job without workload or template"
    module = job.spec.workload.name.replace("-", "_")
    trainer = {
        "name": names.TRAINER_CONTAINER,
        "image": image,
        "imagePullPolicy": image_pull_policy,
        "command": ["python", "-m", "cra_trainer.run", "-m", f"cra_trainer.workloads.{module}"],
        "readinessProbe": {
            "httpGet": {"path": "/readyz", "port": names.METRICS_PORT_NAME},
            "periodSeconds": 1,
            "failureThreshold": 3,
        },
    }
    return {"spec": {"containers": [trainer]}}


def _equip(trainer: Manifest, job: Job, cohort: Cohort, rank: int) -> None:
    """Give the trainer container its GPUs, its port, its environment and a way to say why it failed."""
    ports = trainer.get("ports") or []
    if all(port.get("name") != names.METRICS_PORT_NAME for port in ports):
        ports = [*ports, {"name": names.METRICS_PORT_NAME, "containerPort": names.METRICS_PORT}]
    ours = _environment(job, cohort, rank)
    overridden = {variable["name"] for variable in ours}
    users = [v for v in trainer.get("env") or () if v["name"] not in overridden]
    resources = trainer.get("resources") or {}
    gpus = {names.GPU_RESOURCE: str(cohort.size.gpus_per_worker)}
    trainer |= {
        "ports": ports,
        "env": [*users, *ours],
        "resources": {**resources, "limits": {**(resources.get("limits") or {}), **gpus}},
    }
    trainer.setdefault("terminationMessagePolicy", "FallbackToLogsOnError")


def _environment(job: Job, cohort: Cohort, rank: int) -> list[Manifest]:
    """The pod contract: torchrun's variables, then ours.

    `WORLD_SIZE` counts all ranks of the run once the cohort takes part, `CRA_JOINING` the cohort's alone.
    """
    name, size = job.metadata.name, cohort.size
    each = size.gpus_per_worker
    master = f"{names.pod_name(name, cohort.run, 0)}.{name}"
    plain = {
        "MASTER_ADDR": master,
        "MASTER_PORT": names.MASTER_PORT,
        "WORLD_SIZE": size.gpus,
        "RANK": rank * each,
        "LOCAL_RANK": 0,
        "LOCAL_WORLD_SIZE": each,
        "PET_NNODES": size.workers,
        "PET_NODE_RANK": rank,
        "PET_NPROC_PER_NODE": each,
        "PET_MASTER_ADDR": master,
        "PET_MASTER_PORT": names.MASTER_PORT,
        "CRA_JOB": name,
        "CRA_NAMESPACE": job.metadata.namespace,
        "CRA_POD": names.pod_name(name, cohort.generation, rank),
        "CRA_GENERATION": cohort.generation,
        "CRA_JOINING": len(cohort.ranks) * each,
        "CRA_METRICS_PORT": names.METRICS_PORT,
        "CRA_CONFIG": json.dumps(trainer_config(job), separators=(",", ":")),
    }
    if rank == 0:
        plain["CRA_CHECKPOINT_DIR"] = _checkpoint_place(job)
    variables: list[Manifest] = [{"name": key, "value": str(value)} for key, value in plain.items()]
    variables.append({"name": "CRA_POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}})
    wandb = job.spec.training.tracking.wandb
    if wandb is not None and rank == 0:
        key = {"name": wandb.secret_name, "key": "WANDB_API_KEY"}
        variables.append({"name": "WANDB_API_KEY", "valueFrom": {"secretKeyRef": key}})
    return variables


def trainer_config(job: Job) -> Manifest:
    """The parts of the spec that the trainer acts on, spelt as in the spec."""
    spec = job.spec.wire()
    return {part: spec[part] for part in ("workload", "training", "allocator", "checkpoint") if part in spec}


def _checkpoint_place(job: Job) -> str:
    """Where rank 0 keeps checkpoints; under a URL no job shares a folder with a later one of its name."""
    url, metadata = job.spec.checkpoint.url, job.metadata
    if url is None:
        return names.CHECKPOINT_DIR
    return f"{url.rstrip('/')}/{metadata.namespace}/{metadata.name}/{metadata.uid}"


def _mount_checkpoint(spec: Manifest, trainer: Manifest, job: Job) -> None:
    volume = job.spec.checkpoint.volume or VolumeSpec()
    name = volume.claim_name or names.claim_name(job.metadata.name)
    mounted = {"name": names.CHECKPOINT_VOLUME, "mountPath": names.CHECKPOINT_DIR}
    backed = {"name": names.CHECKPOINT_VOLUME, "persistentVolumeClaim": {"claimName": name}}
    trainer["volumeMounts"] = [*(trainer.get("volumeMounts") or ()), mounted]
    spec["volumes"] = [*(spec.get("volumes") or ()), backed]


def _tolerations(given: Iterable[Manifest]) -> list[Manifest]:
    """Tolerate the usual taint of GPU nodes, and leave nodes that stopped answering soon.

    Keys that the template already speaks about are left to it.
    """
    spoken = {toleration.get("key") for toleration in given}
    lost: list[Manifest] = [
        {"key": f"node.kubernetes.io/{state}", "operator": "Exists", "effect": "NoExecute",
         "tolerationSeconds": _LOST_NODE_SECONDS}
        for state in ("not-ready", "unreachable")
    ]  # fmt: skip
    ours = [{"key": names.GPU_RESOURCE, "operator": "Exists"}, *lost]
    return [toleration for toleration in ours if toleration["key"] not in spoken]


def _keep_away(spec: Manifest, nodes: Iterable[str]) -> None:
    """Require other nodes than these, in addition to what the template requires of nodes."""
    # By name: the label kubernetes.io/hostname need not be the node's name. A field takes one value.
    fields: list[Manifest] = [
        {"key": "metadata.name", "operator": "NotIn", "values": [node]} for node in nodes
    ]
    if not fields:
        return
    affinity = spec["affinity"] = spec.get("affinity") or {}
    of_nodes = affinity["nodeAffinity"] = affinity.get("nodeAffinity") or {}
    kind = "requiredDuringSchedulingIgnoredDuringExecution"
    # A node has to meet one of the terms.
    terms = (of_nodes.get(kind) or {}).get("nodeSelectorTerms") or [{}]
    terms = [{**term, "matchFields": [*(term.get("matchFields") or ()), *fields]} for term in terms]
    of_nodes[kind] = {"nodeSelectorTerms": terms}


def _prefer(spec: Manifest, gpu_type: str) -> None:
    """Ask for nodes with this type of GPU, beside whatever the template asks for; others will do."""
    affinity = dict(spec.get("affinity") or {})
    node = dict(affinity.get("nodeAffinity") or {})
    wish = {"key": names.GPU_PRODUCT_LABEL, "operator": "In", "values": [gpu_type]}
    term = {"weight": _STRONGEST, "preference": {"matchExpressions": [wish]}}
    key = "preferredDuringSchedulingIgnoredDuringExecution"
    spec["affinity"] = affinity | {"nodeAffinity": node | {key: [*(node.get(key) or ()), term]}}


def _restrict(spec: Manifest) -> None:
    """Fill in the `restricted` Pod Security Standard where the template is silent."""
    spec.setdefault("automountServiceAccountToken", False)
    spec["securityContext"] = {
        "runAsNonRoot": True,
        "seccompProfile": {"type": "RuntimeDefault"},
        "fsGroup": _FILE_GROUP,  # a fresh volume belongs to root: this lets the non-root trainer write to it
        "fsGroupChangePolicy": "OnRootMismatch",
        **(spec.get("securityContext") or {}),
    }
    for container in [*(spec.get("initContainers") or ()), *spec["containers"]]:
        container["securityContext"] = {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            **(container.get("securityContext") or {}),
        }
