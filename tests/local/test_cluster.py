"""Real clusters: alone, side by side, without privileges, and however they end."""

import base64
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import textwrap
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml

from e2e.local import Cluster, NodeSpec
from e2e.local.errors import ClusterExistsError, NoSuchClusterError, StartError
from e2e.local.layout import REPOSITORY, Layout, clusters_home
from e2e.local.node.config import cluster_id
from e2e.local.state import Record

pytestmark = pytest.mark.cluster


@pytest.fixture(autouse=True)
def _own_cache(built_tools: Path, cache_home: Path) -> None:
    """State beside the user's, programs from the user's cache."""


def namespace_of(cluster: str) -> str:
    """The PID namespace of a running cluster, as the link in /proc reads."""
    record = Record.read(Layout(clusters_home() / cluster).record)
    assert record is not None
    return str(Path(f"/proc/{record.keeper}/ns/pid_for_children").readlink())


def processes_in(namespace: str) -> list[int]:
    """Processes of a PID namespace that still run."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and str((entry / "ns/pid").readlink()) == namespace:
                found.append(int(entry.name))
        except OSError:
            # It ended meanwhile, or is not ours and so not the cluster's.
            continue
    return found


def control_groups_of(cluster: str) -> list[str]:
    """Control groups of a cluster, wherever such file systems are mounted."""
    name = cluster_id(Layout(clusters_home() / cluster).node)
    return [folder for folder, _, _ in os.walk("/sys/fs/cgroup") if Path(folder).name == name]


def eventually(what: Callable[[], bool], within: float = 20) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + within
    while not what():
        assert time.monotonic() < deadline, "it does not come about"
        time.sleep(0.05)


def get(cluster: Cluster, path: str, token: str | None = None) -> int:
    """Status of a request to the API server without a client certificate."""
    config = yaml.safe_load(cluster.kubeconfig.read_text())["clusters"][0]["cluster"]
    authority = base64.b64decode(config["certificate-authority-data"]).decode()
    context = ssl.create_default_context(cadata=authority)
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    request = urllib.request.Request(config["server"] + path, headers=headers)
    try:
        with urllib.request.urlopen(request, context=context) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        return error.code


@pytest.fixture
def pair() -> Iterator[tuple[Cluster, Cluster]]:
    """Two clusters, started at once from threads that end before the clusters are used."""
    nodes = [NodeSpec(name="gpu-0", gpus=2, gpu_type="T4"), NodeSpec(name="cpu-0")]
    with ThreadPoolExecutor(2) as pool:
        one, two = pool.map(lambda name: Cluster.start(name, nodes=nodes), ("one", "two"))
    with one, two:
        yield one, two


def test_two_clusters_live_side_by_side_and_leave_nothing(pair: tuple[Cluster, Cluster]) -> None:
    one, two = pair
    one.kubectl("create", "namespace", "only-here")
    assert "only-here" not in two.kubectl("get", "namespaces")
    assert namespace_of("one") != namespace_of("two")
    with pytest.raises(ClusterExistsError):
        Cluster.start("one")

    # Nobody gets in without a certificate or a token, and a token is good for what RBAC says.
    assert get(one, "/api/v1/namespaces") == 401
    token = one.kubectl("create", "token", "default").strip()
    assert get(one, "/apis", token) == 200
    assert get(one, "/api/v1/secrets", token) == 403
    assert get(two, "/apis", token) == 401
    one.kubectl("create", "clusterrolebinding", "r", "--clusterrole=view", "--serviceaccount=default:default")
    eventually(lambda: get(one, "/api/v1/namespaces/default/pods", token) == 200)

    # Prometheus finds the nodes through the API server, and what they export.
    def exporters() -> set[str]:
        url = f"{one.prometheus_url}/api/v1/query?query=up%7Bjob%3D%22dcgm-exporter%22%7D%3D%3D1"
        with urllib.request.urlopen(url) as response:
            return {series["metric"]["node"] for series in json.load(response)["data"]["result"]}

    eventually(lambda: exporters() == {"gpu-0", "cpu-0"})

    # One ends in order, the other by force; both are gone for good.
    namespaces = namespace_of("one"), namespace_of("two")
    keeper = Record.read(Layout(two.dir).record)
    assert keeper is not None
    one.stop()
    os.kill(keeper.keeper, signal.SIGKILL)
    eventually(lambda: not any(processes_in(namespace) for namespace in namespaces))
    with pytest.raises(NoSuchClusterError):
        two.status()
    two.stop()
    for cluster in pair:
        assert {path.name for path in cluster.dir.iterdir()} == {"lock", "logs"}
        assert control_groups_of(cluster.name) == []
        port = urlsplit(cluster.prometheus_url).port
        with socket.socket() as client:
            assert client.connect_ex(("127.0.0.1", port or 0)) != 0


def test_components_can_be_killed_and_come_back() -> None:
    with Cluster.start(nodes=()) as cluster:
        cluster.kubectl("create", "configmap", "kept")
        cluster.stop_component("prometheus")
        assert cluster.status()["prometheus"] == {"state": "stopped", "exitCode": -signal.SIGKILL}
        for component in ("prometheus", "etcd", "kube-apiserver"):
            cluster.restart_component(component)
        assert {known["state"] for known in cluster.status().values()} == {"ready"}
        assert "kept" in cluster.kubectl("get", "configmaps")
        scheduler = [
            pid
            for pid in processes_in(namespace_of(cluster.name))
            if b"kube-scheduler" in Path(f"/proc/{pid}/cmdline").read_bytes()
        ]
        os.kill(scheduler[0], signal.SIGKILL)
        eventually(lambda: cluster.status()["kube-scheduler"]["state"] == "failed")
        assert "signal SIGKILL" in cluster.status()["kube-scheduler"]["message"]


def test_a_cluster_dies_with_its_launcher() -> None:
    code = """
        import sys
        from e2e.local import Cluster
        Cluster.start("short", nodes=())
        print("up", flush=True)
        sys.stdin.read()
    """
    argv = [sys.executable, "-c", textwrap.dedent(code)]
    with subprocess.Popen(argv, cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as launcher:
        assert launcher.stdout is not None
        assert launcher.stdout.readline() == b"up\n"
        namespace = namespace_of("short")
        assert len(processes_in(namespace)) > 5
        launcher.kill()
    eventually(lambda: not processes_in(namespace))


def test_a_component_that_fails_is_named_with_what_it_said(built_tools: Path) -> None:
    (built_tools / "etcd").unlink()
    (built_tools / "etcd").write_text(
        "#!/bin/sh\n"
        '[ "$1" = --version ] && echo "etcd Version: 3.6.0" && exit\n'
        "echo no room for the store; exit 7\n"
    )
    (built_tools / "etcd").chmod(0o755)
    with pytest.raises(StartError, match=r"etcd ended with exit code 7(.|\n)*no room for the store"):
        Cluster.start("broken", nodes=())
    with pytest.raises(NoSuchClusterError, match="no cluster broken is running"):
        Cluster.attach("broken")


@pytest.fixture
def unprivileged(built_tools: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What to put before a command to run it without privileges, with a cache that it may write."""
    if os.geteuid() != 0:
        yield []
        return
    # Not under pytest's directory, which is one of those that let only their owner pass.
    with tempfile.TemporaryDirectory() as home:
        stash = Path(home, "stash")
        stash.mkdir()
        os.chown(home, 65534, 65534)
        monkeypatch.setenv("XDG_CACHE_HOME", home)
        monkeypatch.setenv("HOME", home)
        needed = [Path(sys.executable), Path(sys.executable).resolve(), REPOSITORY, built_tools]
        needed += [tool.resolve() for tool in built_tools.iterdir()]
        yield [str(Path(__file__).with_name("as_nobody.sh")), *map(str, (stash, *needed)), "--"]


def test_a_detached_cluster_needs_no_privileges(unprivileged: list[str]) -> None:
    def run(*arguments: str) -> str:
        argv = [*unprivileged, sys.executable, "-m", "e2e.local", *arguments]
        done = subprocess.run(argv, cwd=REPOSITORY, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "kubectl --kubeconfig" in run("up", "--name", "plain")
    try:
        assert "node-agent               ready" in run("status")
        namespace = namespace_of("plain")
        cluster = Cluster.attach("plain")
        command = ["run", "hello", "--image=host", "--restart=Never", "--command", "--", "echo", "from a pod"]
        cluster.kubectl(*command)
        cluster.kubectl("wait", "pod/hello", "--for=jsonpath={.status.phase}=Succeeded", "--timeout=30s")
        assert cluster.kubectl("logs", "hello") == "from a pod\n"
    finally:
        run("down", "--name", "plain")
    eventually(lambda: not processes_in(namespace))
    assert run("status") == "no cluster is running\n"
