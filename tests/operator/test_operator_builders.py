"""The manifests of a job's children: the pod contract, the user's template, security."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cra_operator import build, names
from cra_operator.api import Job
from cra_operator.sizing import Cohort, Size, wanted
from tests.operator.operator_world import make_job


def built(
    job: Job,
    rank: int = 0,
    *,
    workers: int = 2,
    each: int = 1,
    joining: tuple[int, ...] = (),
    gpu_type: str | None = None,
) -> dict[str, Any]:
    """A pod of the run that generation 3 began; with `joining`, one of generation 5, which joins it."""
    cohort = Cohort(
        run=3,
        generation=5 if joining else 3,
        size=Size(workers=workers, gpus_per_worker=each),
        ranks=joining or tuple(range(workers)),
    )
    return build.pod(
        job, cohort=cohort, rank=rank, image="trainer:1", image_pull_policy="Never", gpu_type=gpu_type
    )


def trainer_of(pod: dict[str, Any]) -> dict[str, Any]:
    return next(c for c in pod["spec"]["containers"] if c["name"] == "trainer")


def env_of(pod: dict[str, Any]) -> dict[str, str]:
    return {v["name"]: v.get("value", "") for v in trainer_of(pod)["env"]}


def template(**spec: Any) -> dict[str, Any]:
    return {
        "spec": {
            "containers": [{"name": "trainer", "image": "mine:1", "command": ["python", "x.py"]}],
            **spec,
        }
    }


def test_names_labels_and_owner_tell_what_a_pod_is() -> None:
    pod = built(make_job(), rank=1)
    meta = pod["metadata"]
    assert meta["name"] == "digits-3-1"
    assert pod["spec"]["hostname"] == "digits-3-1"
    assert pod["spec"]["subdomain"] == "digits"
    assert pod["spec"]["restartPolicy"] == "Never"
    assert meta["labels"] == {
        "cra.dev/job": "digits",
        "cra.dev/rank": "1",
        "cra.dev/generation": "3",
        "cra.dev/run": "3",
        "app.kubernetes.io/name": "cra-trainer",
        "app.kubernetes.io/managed-by": "cra-operator",
    }
    (owner,) = meta["ownerReferences"]
    assert (owner["kind"], owner["uid"], owner["controller"]) == ("CRATrainingJob", "uid-digits", True)
    assert meta["annotations"]["prometheus.io/port"] == "8080"
    assert meta["annotations"]["cra.dev/workers"] == "2"
    assert "cra.dev/joining" not in meta["annotations"]


def test_a_pod_that_joins_a_run_finds_its_leader_and_knows_with_whom_it_comes() -> None:
    pod = built(make_job(), rank=4, workers=6, each=2, joining=(1, 4, 5))
    env = env_of(pod)
    assert pod["metadata"]["name"] == env["CRA_POD"] == "digits-5-4"
    assert pod["metadata"]["labels"]["cra.dev/generation"] == env["CRA_GENERATION"] == "5"
    assert pod["metadata"]["labels"]["cra.dev/run"] == "3"
    assert env["MASTER_ADDR"] == "digits-3-0.digits"
    assert (env["RANK"], env["WORLD_SIZE"], env["CRA_JOINING"]) == ("8", "12", "6")
    assert pod["metadata"]["annotations"]["cra.dev/joining"] == "1,4-5"
    assert pod["metadata"]["annotations"]["cra.dev/workers"] == "6"


@given(st.sets(st.integers(0, 60)))
def test_ranks_survive_being_spelt(ranks: set[int]) -> None:
    rising = tuple(sorted(ranks))
    assert names.read_ranks(names.spell_ranks(rising)) == rising


@given(st.text(max_size=8))
def test_whatever_an_annotation_says_can_be_read(text: str) -> None:
    names.read_ranks(text)


def test_torchruns_variables_are_there_for_one_gpu_per_pod() -> None:
    env = env_of(built(make_job(), rank=1))
    assert env["MASTER_ADDR"] == env["PET_MASTER_ADDR"] == "digits-3-0.digits"
    assert env["MASTER_PORT"] == env["PET_MASTER_PORT"] == "29500"
    assert (env["WORLD_SIZE"], env["RANK"], env["LOCAL_RANK"], env["LOCAL_WORLD_SIZE"]) == (
        "2",
        "1",
        "0",
        "1",
    )
    assert (env["PET_NNODES"], env["PET_NODE_RANK"], env["PET_NPROC_PER_NODE"]) == ("2", "1", "1")
    assert (env["CRA_JOB"], env["CRA_NAMESPACE"], env["CRA_POD"]) == ("digits", "default", "digits-3-1")
    assert (env["CRA_GENERATION"], env["CRA_JOINING"]) == ("3", "2")


def test_pods_of_several_gpus_count_every_local_rank() -> None:
    pod = built(make_job(), rank=1, workers=3, each=4)
    env = env_of(pod)
    assert (env["WORLD_SIZE"], env["RANK"], env["LOCAL_WORLD_SIZE"]) == ("12", "4", "4")
    assert (env["PET_NNODES"], env["PET_NODE_RANK"], env["PET_NPROC_PER_NODE"]) == ("3", "1", "4")
    assert trainer_of(pod)["resources"]["limits"]["nvidia.com/gpu"] == "4"


def test_the_trainers_configuration_is_the_spec_with_its_defaults() -> None:
    job = make_job(training={"epochs": 3}, allocator={"ranks": {"strategy": "uniform"}})
    config = json.loads(env_of(built(job))["CRA_CONFIG"])
    assert config.keys() == {"workload", "training", "allocator", "checkpoint"}
    assert config["workload"] == {"name": "digits-cnn", "parameters": {}}
    assert config["training"]["epochs"] == 3
    assert config["training"]["batchSize"] == 64
    assert config["training"]["optimizer"] == {"name": "adam", "learningRate": 0.001, "weightDecay": 0}
    assert config["allocator"]["ranks"]["strategy"] == "uniform"
    assert config["checkpoint"]["intervalSeconds"] == 60


def test_the_key_of_weights_and_biases_is_rank_zeros_alone() -> None:
    job = make_job(training={"tracking": {"wandb": {"project": "images", "secretName": "wandb-key"}}})
    reference = {"secretKeyRef": {"name": "wandb-key", "key": "WANDB_API_KEY"}}
    assert {"name": "WANDB_API_KEY", "valueFrom": reference} in trainer_of(built(job, rank=0))["env"]
    assert "WANDB_API_KEY" not in env_of(built(job, rank=1))
    assert "WANDB_API_KEY" not in env_of(built(make_job(), rank=0))


def test_a_built_in_workload_runs_from_the_configured_image() -> None:
    trainer = trainer_of(built(make_job(workload={"name": "char-transformer"})))
    assert (trainer["image"], trainer["imagePullPolicy"]) == ("trainer:1", "Never")
    assert trainer["command"][-1] == "cra_trainer.workloads.char_transformer"
    assert trainer["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": "metrics"}


def test_only_rank_zero_mounts_the_checkpoint_volume() -> None:
    first, second = built(make_job(), rank=0), built(make_job(), rank=1)
    assert first["spec"]["volumes"] == [
        {"name": "cra-checkpoint", "persistentVolumeClaim": {"claimName": "digits-checkpoint"}}
    ]
    assert env_of(first)["CRA_CHECKPOINT_DIR"] == "/cra/checkpoint"
    assert "volumes" not in second["spec"]
    assert "CRA_CHECKPOINT_DIR" not in env_of(second)


def test_a_claim_is_made_only_where_the_user_brings_none() -> None:
    claim = build.claim(make_job(checkpoint={"volume": {"size": "5Gi", "storageClassName": "fast"}}))
    assert claim is not None
    assert claim["metadata"]["name"] == "digits-checkpoint"
    assert claim["spec"] == {
        "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": "5Gi"}},
        "storageClassName": "fast",
    }
    own = make_job(checkpoint={"volume": {"claimName": "mine"}})
    assert build.claim(own) is None
    assert built(own)["spec"]["volumes"][0]["persistentVolumeClaim"]["claimName"] == "mine"


def test_under_a_url_each_job_has_a_folder_of_its_own_and_no_volume() -> None:
    job = make_job(checkpoint={"url": "s3://bucket/all/"})
    pod = built(job)
    assert env_of(pod)["CRA_CHECKPOINT_DIR"] == f"s3://bucket/all/default/digits/{job.metadata.uid}"
    assert build.claim(job) is None
    assert "volumes" not in pod["spec"]
    assert "volumeMounts" not in trainer_of(pod)
    assert "CRA_CHECKPOINT_DIR" not in env_of(built(job, rank=1))


def test_ranks_find_each_other_before_they_are_ready() -> None:
    service = build.service(make_job())
    assert service["metadata"]["name"] == "digits"
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["publishNotReadyAddresses"] is True
    assert service["spec"]["selector"] == {"cra.dev/job": "digits"}


def test_the_users_template_is_kept_and_completed() -> None:
    given = template(
        nodeSelector={"pool": "a"},
        tolerations=[{"key": "pool", "operator": "Exists"}],
        terminationGracePeriodSeconds=7,
        volumes=[{"name": "data", "emptyDir": {}}],
    )
    given["metadata"] = {"labels": {"team": "x", "cra.dev/rank": "9"}, "annotations": {"note": "y"}}
    trainer = given["spec"]["containers"][0]
    trainer["env"] = [{"name": "HOME", "value": "/h"}, {"name": "WORLD_SIZE", "value": "99"}]
    trainer["resources"] = {"limits": {"memory": "1Gi"}}
    trainer["volumeMounts"] = [{"name": "data", "mountPath": "/data"}]
    job = make_job(template=given)
    before = json.dumps(job.spec.template)
    pod = built(job)
    assert json.dumps(job.spec.template) == before, "the job itself is not touched"
    assert pod["spec"]["nodeSelector"] == {"pool": "a"}
    assert pod["spec"]["terminationGracePeriodSeconds"] == 7
    assert pod["metadata"]["labels"]["team"] == "x"
    assert pod["metadata"]["labels"]["cra.dev/rank"] == "0"
    assert pod["metadata"]["annotations"]["note"] == "y"
    assert env_of(pod)["HOME"] == "/h"
    assert [v["name"] for v in trainer_of(pod)["env"]].count("WORLD_SIZE") == 1
    assert env_of(pod)["WORLD_SIZE"] == "2"
    assert trainer_of(pod)["resources"]["limits"] == {"memory": "1Gi", "nvidia.com/gpu": "1"}
    assert [mount["mountPath"] for mount in trainer_of(pod)["volumeMounts"]] == ["/data", "/cra/checkpoint"]
    assert "readinessProbe" not in trainer_of(pod), "a plain script has nothing to probe"


def test_the_users_own_port_named_metrics_is_respected() -> None:
    given = template()
    given["spec"]["containers"][0]["ports"] = [{"name": "metrics", "containerPort": 9999}]
    ports = trainer_of(built(make_job(template=given)))["ports"]
    assert ports == [{"name": "metrics", "containerPort": 9999}]


def test_gpu_taints_are_tolerated_and_lost_nodes_left_soon() -> None:
    tolerations = built(make_job())["spec"]["tolerations"]
    assert {"key": "nvidia.com/gpu", "operator": "Exists"} in tolerations
    seconds = {t["key"]: t["tolerationSeconds"] for t in tolerations if "tolerationSeconds" in t}
    assert seconds == {"node.kubernetes.io/not-ready": 30, "node.kubernetes.io/unreachable": 30}
    own = {"key": "node.kubernetes.io/unreachable", "operator": "Exists", "tolerationSeconds": 900}
    kept = built(make_job(template=template(tolerations=[own])))["spec"]["tolerations"]
    assert [t for t in kept if t["key"] == own["key"]] == [own]


def test_a_type_of_gpu_is_preferred_beside_what_the_template_asks_for() -> None:
    zone = {"weight": 5, "preference": {"matchExpressions": [{"key": "zone", "operator": "Exists"}]}}
    required = {"nodeSelectorTerms": [{"matchExpressions": [{"key": "disk", "operator": "Exists"}]}]}
    given: dict[str, Any] = {
        "nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": required,
            "preferredDuringSchedulingIgnoredDuringExecution": [zone],
        },
        "podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []},
    }
    job = make_job(template=template(nodeSelector={"a": "b"}, affinity=given))
    made = built(job, gpu_type="T4")["spec"]
    wish = {"key": "nvidia.com/gpu.product", "operator": "In", "values": ["T4"]}
    preferred = [zone, {"weight": 100, "preference": {"matchExpressions": [wish]}}]
    node = given["nodeAffinity"] | {"preferredDuringSchedulingIgnoredDuringExecution": preferred}
    assert made["affinity"] == {**given, "nodeAffinity": node}
    assert made["nodeSelector"] == {"a": "b"}
    assert built(job)["spec"]["affinity"] == given, "and the template is not touched"


def test_pods_pass_the_restricted_standard_by_default() -> None:
    given = template(initContainers=[{"name": "fetch", "image": "mine:1"}])
    for job in (make_job(), make_job(template=given)):
        spec = built(job)["spec"]
        assert spec["automountServiceAccountToken"] is False
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in [*spec.get("initContainers", []), *spec["containers"]]:
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False
            assert context["capabilities"] == {"drop": ["ALL"]}


def test_a_template_may_say_otherwise() -> None:
    given = template(securityContext={"runAsNonRoot": False, "runAsUser": 0})
    given["spec"]["containers"][0]["securityContext"] = {"capabilities": {"add": ["IPC_LOCK"]}}
    pod = built(make_job(template=given))
    assert pod["spec"]["securityContext"]["runAsNonRoot"] is False
    assert trainer_of(pod)["securityContext"]["capabilities"] == {"add": ["IPC_LOCK"]}


def test_the_priority_class_is_passed_on() -> None:
    assert built(make_job(priorityClassName="high"))["spec"]["priorityClassName"] == "high"
    assert "priorityClassName" not in built(make_job())["spec"]


@pytest.mark.parametrize(
    ("scaling", "workers", "each"),
    [
        ({}, 1, 1),
        ({"minGPUs": 2}, 2, 1),
        ({"gpus": 6}, 6, 1),
        ({"minGPUs": 4, "gpusPerWorker": 2}, 2, 2),
        ({"gpus": 8, "gpusPerWorker": 4}, 2, 4),
        ({"minGPUs": 1, "gpusPerWorker": "2-4"}, 1, 2),
        ({"minGPUs": 3, "gpusPerWorker": "2-4"}, 2, 2),
        ({"gpus": 5, "gpusPerWorker": "2-4"}, 2, 2),
    ],
)
def test_the_size_follows_from_the_spec(scaling: dict[str, Any], workers: int, each: int) -> None:
    assert wanted(make_job(scaling=scaling).spec.scaling) == Size(workers=workers, gpus_per_worker=each)
