"""e2e/kind without Docker: the script is clean and says what it lacks, and what it sends is valid.

kind and docker are stood in for by programs that note how they were called; kubectl and the server are real.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from e2e.local import Cluster

HERE = Path(__file__).resolve().parents[2] / "e2e" / "kind"
SCRIPT = HERE / "run.sh"
WORKERS = ("cra-worker", "cra-worker2")
SHELL_TOOLS = ("bash", "dirname", "mkdir", "rm", "sed", "grep", "cat")


def run(*arguments: str, path: Path, home: Path) -> subprocess.CompletedProcess[str]:
    """Run the script with nothing but `path` on PATH."""
    env = {"PATH": str(path), "HOME": str(home)}
    return subprocess.run([SCRIPT, *arguments], env=env, capture_output=True, text=True, check=False)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A PATH with the shell's everyday tools only."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for tool in SHELL_TOOLS:
        (folder / tool).symlink_to(str(shutil.which(tool)))
    (folder / "env").symlink_to(str(shutil.which("env")))
    return folder


def stand_in(path: Path, name: str, body: str = "") -> Path:
    """A program that notes its arguments, one call a line; returns the notes."""
    notes = path / f"{name}.calls"
    program = path / name
    program.write_text(f'#!/bin/bash\nprintf "%s\\n" "$*" >> {notes}\n{body}\n')
    program.chmod(0o755)
    return notes


def test_shellcheck_has_nothing_to_say() -> None:
    shellcheck = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    assert shellcheck is not None
    done = subprocess.run([shellcheck, SCRIPT], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("command", "tools"),
    [("up", ("docker", "kind", "kubectl")), ("demo", ("docker", "kind", "kubectl", "helm"))],
)
def test_every_missing_tool_is_named_with_its_use(
    path: Path, tmp_path: Path, command: str, tools: tuple[str, ...]
) -> None:
    done = run(command, path=path, home=tmp_path)
    assert done.returncode == 1
    assert [line.split()[0] for line in done.stderr.splitlines()] == list(tools)
    assert all("is not on PATH: it " in line for line in done.stderr.splitlines())


def test_a_docker_without_daemon_is_told_apart(path: Path, tmp_path: Path) -> None:
    stand_in(path, "docker", "exit 1")
    stand_in(path, "kind")
    stand_in(path, "kubectl")
    done = run("up", path=path, home=tmp_path)
    assert done.returncode == 1
    assert "its daemon does not answer" in done.stderr


def test_without_a_command_it_tells_its_use(path: Path, tmp_path: Path) -> None:
    done = run(path=path, home=tmp_path)
    assert done.returncode == 1
    assert done.stderr == "usage: e2e/kind/run.sh up|demo|down\n"


def test_the_cluster_has_workers_that_count_as_gpu_nodes() -> None:
    config = yaml.safe_load((HERE / "cluster.yaml").read_text())
    workers = [node for node in config["nodes"] if node["role"] == "worker"]
    assert len(workers) == 2
    assert all(node["labels"]["nvidia.com/gpu.present"] == "true" for node in workers)
    assert all(node["labels"]["nvidia.com/gpu.product"] for node in workers)


@pytest.fixture
def workers(cluster: Cluster) -> Iterator[None]:
    """Node objects as kind's workers would register them, labels and all."""
    config = yaml.safe_load((HERE / "cluster.yaml").read_text())
    labels = next(node["labels"] for node in config["nodes"] if node["role"] == "worker")
    for name in WORKERS:
        node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}}
        cluster.kubectl("create", "-f", "-", stdin=yaml.safe_dump(node))
    yield
    cluster.kubectl("delete", "node", *WORKERS)


@pytest.mark.cluster
def test_the_monitoring_manifests_are_valid(cluster: Cluster) -> None:
    # The namespace is there in the embedded cluster; what lies in it is checked, not kept.
    for file in ("prometheus.yaml", "quota.yaml"):
        said = cluster.kubectl("apply", "--dry-run=server", "--validate=strict", "-f", str(HERE / file))
        assert len(said.splitlines()) == len(list(yaml.safe_load_all((HERE / file).read_text())))


@pytest.mark.cluster
def test_prometheus_takes_the_rule_and_the_settings(cluster: Cluster, tmp_path: Path) -> None:
    documents = yaml.safe_load_all((HERE / "prometheus.yaml").read_text())
    data = next(document["data"] for document in documents if document["kind"] == "ConfigMap")
    (tmp_path / "rules.yml").write_text(data["rules.yml"])
    settings = yaml.safe_load(data["prometheus.yml"])
    settings["rule_files"] = [str(tmp_path / "rules.yml")]
    for scrape in settings["scrape_configs"]:
        for discovery in scrape["kubernetes_sd_configs"]:
            discovery["kubeconfig_file"] = str(cluster.kubeconfig)
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(settings))
    command = [
        cluster.tool("prometheus"),
        f"--config.file={tmp_path / 'prometheus.yml'}",
        f"--storage.tsdb.path={tmp_path / 'data'}",
        "--web.listen-address=127.0.0.1:0",
    ]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as prometheus:
        assert prometheus.stderr is not None
        told = []
        for line in prometheus.stderr:
            told.append(line)
            if "Completed loading of configuration file" in line:
                break
        prometheus.terminate()
        told.append(prometheus.stderr.read())
        assert prometheus.wait() == 0, "".join(told)
    assert not [line for line in told if "level=ERROR" in line]


@pytest.mark.cluster
@pytest.mark.usefixtures("workers")
def test_up_makes_the_cluster_and_gives_the_workers_gpus(
    cluster: Cluster, path: Path, tmp_path: Path
) -> None:
    kubeconfig = tmp_path / ".cache" / "cra" / "kind" / "kubeconfig"
    kubeconfig.parent.mkdir(parents=True)
    docker = stand_in(path, "docker")
    # As kind does: no cluster at first; creating it writes the kubeconfig.
    kind = stand_in(
        path, "kind", f'[ "$1" != create ] || {shutil.which("cp")} {cluster.kubeconfig} {kubeconfig}'
    )
    # Prometheus stays out of the shared cluster, which has its own.
    stand_in(path, "kubectl", f'[[ "$*" = *prometheus.yaml* ]] || exec {cluster.tool("kubectl")} "$@"')

    done = run("up", path=path, home=tmp_path)
    assert done.returncode == 0, done.stderr
    try:
        for name in WORKERS:
            status = json.loads(cluster.kubectl("get", "node", name, "-o", "json"))["status"]
            assert status["capacity"]["nvidia.com/gpu"] == "4"
            assert status["allocatable"]["nvidia.com/gpu"] == "4"
        limits = json.loads(cluster.kubectl("get", "limitrange", "simulated-gpu", "-o", "json"))["spec"][
            "limits"
        ]
        assert limits[0]["default"] == {"cpu": "500m"}
    finally:
        cluster.kubectl("delete", "limitrange", "simulated-gpu", "--ignore-not-found")

    made, loaded = [line for line in kind.read_text().splitlines() if not line.startswith("get")]
    assert made.startswith("create cluster --name cra --config e2e/kind/cluster.yaml")
    assert loaded == "load docker-image --name cra cra-operator:0.1.0 cra-trainer:0.1.0"
    built = [line for line in docker.read_text().splitlines() if line.startswith("build")]
    assert [line.split()[2] for line in built] == ["operator/Dockerfile", "trainer_image/Dockerfile"]


@pytest.mark.cluster
@pytest.mark.usefixtures("workers")
def test_the_default_limit_is_the_simulated_gpus_speed(cluster: Cluster, namespace: str) -> None:
    cluster.kubectl("apply", "-n", namespace, "-f", str(HERE / "quota.yaml"))
    cluster.kubectl("wait", "-n", namespace, "--for=create", "serviceaccount/default", "--timeout=30s")
    trainer = {"name": "trainer", "image": "host", "resources": {"limits": {"nvidia.com/gpu": "1"}}}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": [trainer]}}
    answer = cluster.kubectl(
        "create", "-n", namespace, "--dry-run=server", "-o", "json", "-f", "-", stdin=yaml.safe_dump(pod)
    )
    limits = json.loads(answer)["spec"]["containers"][0]["resources"]["limits"]
    assert limits == {"cpu": "500m", "nvidia.com/gpu": "1"}
