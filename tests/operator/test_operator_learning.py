"""What policies learn on a cluster outlives the operator, on a real API server."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import pytest
import yaml

from cra_operator.api import Job
from cra_operator.config import Config
from cra_operator.controller.policies import LEARNERS, online
from cra_operator.controller.policies.online import Online
from cra_operator.kube.client import KubeClient
from cra_operator.names import LEARNED
from cra_operator.runtime.controller import Judge
from cra_operator.runtime.learned import Keeper
from e2e.local import Cluster
from tests.controller.test_controller_pulse import NOW, pods, scene, trains
from tests.operator.operator_process import OperatorProcess, User

pytestmark = pytest.mark.cluster

CONFIG = Config(trainer_image="trainer:1", pod_name="me", policy="sarsa", learn_online=True)
CHOICES = 40


def rewarded(job: Job, reward: float) -> Job:
    """The job with so good a size."""
    status = job.status.model_copy(update={"reward": reward})
    return job.model_copy(update={"status": status})


def live(learned: dict[str, Online], *, begin: int = 0) -> None:
    """A cluster whose jobs get more and more out of their GPUs; a choice every ten minutes."""
    judge = Judge(CONFIG, learned)
    for half in range(2 * CHOICES + 1):
        job = rewarded(trains("a", 2), 1.0 + 0.05 * half)
        outcome = judge.decide(
            scene([job], held=pods("a", 2), now=NOW + timedelta(minutes=5 * (begin + half)))
        )
        assert not outcome.troubles


def as_somebody_without_rights(cluster: Cluster, user: User, folder: Path) -> Path:
    """A kubeconfig of an account that may do nothing."""
    config = yaml.safe_load(cluster.kubeconfig.read_text())
    config["users"][0]["user"] = {"token": user.kubectl("create", "token", "default").strip()}
    (folder / "kubeconfig").write_text(yaml.safe_dump(config))
    return folder / "kubeconfig"


def metric(operator: OperatorProcess, name: str) -> float:
    """What the operator tells of SARSA."""
    start = f'cra_operator_learning_{name}{{policy="sarsa"}} '
    return next(
        float(line.removeprefix(start)) for line in operator.metrics().splitlines() if line.startswith(start)
    )


async def learn_and_keep(client: KubeClient, namespace: str) -> tuple[Keeper, dict[str, Online]]:
    """Policies that have learned from so many choices, which were kept if that is possible."""
    learned = {name: begin() for name, begin in LEARNERS.items()}
    keeper = Keeper(client, namespace=namespace, learned=learned)
    await keeper.load()
    live(learned)
    await keeper.save()
    assert learned["sarsa"].updates == CHOICES
    return keeper, learned


async def test_what_was_learned_survives_a_restart_of_the_operator(
    stage: Cluster, user: User, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(stage.kubeconfig))
    monkeypatch.setattr(online, "EXPLORE", 0.5)
    client = KubeClient()
    keeper, learned = await learn_and_keep(client, user.namespace)
    live(learned, begin=2 * CHOICES)
    await keeper.close()
    await client.close()

    operator = OperatorProcess(
        stage, tmp_path / "operator.log", CRA_LEARN_ONLINE="true", CRA_POD_NAMESPACE=user.namespace,
        CRA_WATCH_NAMESPACES=user.namespace,
    )  # fmt: skip
    try:
        operator.wait_ready()
        assert metric(operator, "updates_total") == 2 * CHOICES
        assert metric(operator, "distance_ratio") == pytest.approx(learned["sarsa"].distance, rel=1e-5)
        assert metric(operator, "distance_ratio") > 0
        operator.kill()
        operator.restart()
        assert metric(operator, "updates_total") == 2 * CHOICES
        operator.stop()

        # Somebody puts something else in its place.
        other = json.dumps({"binaryData": {"sarsa.safetensors": "AAAA"}})
        user.kubectl("patch", "configmap", LEARNED, "--type=merge", "--patch", other)
        operator.restart()
        assert metric(operator, "updates_total") == 0
        assert metric(operator, "distance_ratio") == 0
        assert "what policy sarsa learned (ConfigMap cra-operator-learned) is not used" in operator.log
        assert "sarsa.safetensors is not the file of index.json" in operator.log
    finally:
        if operator.process.poll() is None:
            operator.stop()


async def test_without_the_rights_to_keep_it_policies_learn_all_the_same_and_the_log_says_so(
    stage: Cluster,
    user: User,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(as_somebody_without_rights(stage, user, tmp_path)))
    client = KubeClient()
    await learn_and_keep(client, user.namespace)
    await client.close()
    (record,) = caplog.records
    assert record.levelname == "ERROR"
    assert "gives it the rights to create, get and patch ConfigMap cra-operator-learned: 403" in caplog.text
