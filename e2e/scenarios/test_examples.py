"""Every example does what its comment says, on the operator as users install it."""

import json
from pathlib import Path

import pytest
import yaml

from e2e.reach import Job, Reach
from e2e.scenarios.jobs import events, pods, step

pytestmark = pytest.mark.cluster

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def run_example(reach: Reach, file: str, namespace: str, *, scale: int | None = None) -> Job:
    """Apply an example, scale it while it trains when that is asked for, and return its finished job."""
    path = EXAMPLES / file
    documents = list(yaml.safe_load_all(path.read_text()))
    name = next(d["metadata"]["name"] for d in documents if d["kind"] == "CRATrainingJob")
    reach.kubectl("apply", "-n", namespace, "-f", str(path))
    if scale is not None:
        reach.wait_job(name, lambda job: step(job) > 0, namespace=namespace)
        reach.kubectl("scale", "-n", namespace, f"crj/{name}", f"--replicas={scale}")
    return reach.wait_finished(name, namespace=namespace, timeout=240)


def test_the_digits_example_trains_a_good_model_and_says_how(reach: Reach, namespace: str) -> None:
    job = run_example(reach, "digits-cnn.yaml", namespace, scale=2)
    status = job["status"]
    assert status["phase"] == "Succeeded", status
    assert status["result"]["metrics"]["accuracy"] >= 0.95
    assert status["display"]["progress"] == "100%"
    assert status["gpuSeconds"] > 0

    ranks = status["result"]["ranks"]
    assert len(ranks) == 2
    assert sum(rank["share"] for rank in ranks) == pytest.approx(1, abs=1e-3)
    assert sum(rank["weight"] for rank in ranks) == pytest.approx(1, abs=1e-3)

    reasons = {event.split(":")[0] for event in events(reach, "digits-cnn", namespace=namespace)}
    assert "Succeeded" in reasons

    line = reach.kubectl("get", "crj", "-n", namespace, "digits-cnn").splitlines()
    assert line[0].split() == [
        "NAME",
        "PHASE",
        "GPUS",
        "PROGRESS",
        "ETA",
        "UTIL",
        "REWARD",
        "RESTARTS",
        "AGE",
    ]
    assert line[1].split()[:2] == ["digits-cnn", "Succeeded"]

    first = pods(reach, "digits-cnn", namespace=namespace)[0]["metadata"]["name"]
    assert "accuracy" in reach.kubectl("logs", "-n", namespace, first.rsplit("-", 1)[0] + "-0")

    inferred = run_example(reach, "infer.yaml", namespace)
    assert inferred["status"]["phase"] == "Succeeded", inferred["status"]
    assert inferred["status"]["result"]["metrics"]["accuracy"] >= 0.95
    reach.kubectl("delete", "crj", "-n", namespace, "infer", "--cascade=foreground", "--timeout=60s")

    reach.kubectl("delete", "crj", "-n", namespace, "digits-cnn", "--cascade=foreground", "--timeout=60s")
    left = reach.kubectl("get", "pods,services,pvc", "-n", namespace, "-o", "json")
    assert json.loads(left)["items"] == []


def test_the_other_workloads_train_side_by_side_and_tell_how_each_class_fared(
    reach: Reach, namespace: str
) -> None:
    single = ["attention-28x28", "rnn-signal", "fine-tune", "multi-task"]
    for name in [*single, "continual"]:
        reach.kubectl("apply", "-n", namespace, "-f", str(EXAMPLES / f"{name}.yaml"))
    first = reach.wait_finished("continual-first", namespace=namespace, timeout=240)
    resume = '{"spec": {"suspend": false}}'
    reach.kubectl("patch", "crj", "-n", namespace, "continual-later", "--type", "merge", "-p", resume)
    jobs = {
        name: reach.wait_finished(name, namespace=namespace, timeout=240)
        for name in [*single, "continual-later"]
    }
    for name, job in jobs.items():
        assert job["status"]["phase"] == "Succeeded", (name, job["status"])
        result = job["status"]["result"]
        assert result["metrics"]["accuracy"] >= 0.85, (name, result)
        assert [one["name"] for one in result["classes"]] == [str(digit) for digit in range(10)]
        assert sum(one["support"] for one in result["classes"]) in (360, 4 * 360)
    # The second went on from the first: 10 epochs of 600, then 10 of the 837 that are new and the 600 known.
    assert first["status"]["result"]["samples"] == 6000
    assert jobs["continual-later"]["status"]["result"]["samples"] == 6000 + 10 * 1437


@pytest.mark.parametrize("file", ["char-transformer.yaml", "custom-script.yaml", "torchrun-script.yaml"])
def test_the_other_examples_succeed(reach: Reach, namespace: str, file: str) -> None:
    job = run_example(reach, file, namespace)
    assert job["status"]["phase"] == "Succeeded", job["status"]
