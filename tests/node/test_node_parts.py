"""The small parts: configuration, watches, probes' counting, logs, GPUs, names, processes, quotas."""

import asyncio
import os
import sys
import time
from pathlib import Path
from typing import Any

import dnslib
import pytest

from e2e.local.node import dns, gpu, logs, processes, volumes
from e2e.local.node.api import ApiError
from e2e.local.node.config import AgentConfig, ConfigError, GpuType, ImageConfig, NodeConfig, parse_image
from e2e.local.node.container import BackOff
from e2e.local.node.endpoints import Endpoints
from e2e.local.node.environ import Facts
from e2e.local.node.gpu import AdmissionError, Devices, Holder, Meter, Reading
from e2e.local.node.probes import Counter
from e2e.local.node.quota import SignalQuota
from e2e.local.node.watch import Watch

_A100 = GpuType(product="NVIDIA-A100-SIM", core_share=0.5, memory_mib=40960)
_NODE = NodeConfig(name="n", ip="10.244.255.10", gpus=4, gpu_type="A100")


def _config(**changes: Any) -> AgentConfig:
    path = Path("/x")
    paths = dict.fromkeys(("kubeconfig", "ca", "serving_cert", "serving_key", "client_ca", "root_dir"), path)
    images = {"host": ImageConfig(entrypoint=("a", "b"), env={"PATH": "/bin"})}
    parts = {"nodes": (_NODE,), "gpu_types": {"A100": _A100}, "images": images}
    return AgentConfig(**{**paths, **parts, **changes})


def test_the_configuration_survives_its_file(tmp_path: Path) -> None:
    _config().dump(tmp_path / "c.json")
    text = (tmp_path / "c.json").read_text()
    assert AgentConfig.load(tmp_path / "c.json") == _config()
    assert all(f'"{key}"' in text for key in ("podCIDR", "clusterDNS", "clientCA", "memoryMiB", "gpuTypes"))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"rootDir"', '"rotDir"', "rotDir is not known"),
        ('"ip": "10.244.255.10",', "", r"nodes\[0\].ip is missing"),
        ('"coreShare": 0.5', '"coreShare": "half"', "gpuTypes.A100.coreShare must be of type float"),
        ('"gpuType": "A100"', '"gpuType": "B200"', "node n: gpuType 'B200' is not a key of gpuTypes"),
    ],
)
def test_a_wrong_configuration_names_the_field(tmp_path: Path, old: str, new: str, message: str) -> None:
    _config().dump(tmp_path / "c.json")
    text = (tmp_path / "c.json").read_text()
    (tmp_path / "c.json").write_text(text.replace(old, new))
    with pytest.raises(ConfigError, match=message):
        AgentConfig.load(tmp_path / "c.json")


@pytest.mark.parametrize(
    ("image", "repository"),
    [
        ("host", "host"),
        ("cra-trainer:v1", "cra-trainer"),
        ("registry.example:5000/team/x", "registry.example:5000/team/x"),
        ("registry.example:5000/team/x:v1@sha256:abc", "registry.example:5000/team/x"),
    ],
)
def test_image_references(image: str, repository: str) -> None:
    assert parse_image(image) == repository


def _object(uid: str, version: str) -> dict[str, Any]:
    return {"metadata": {"uid": uid, "resourceVersion": version}}


def test_a_new_list_tells_what_happened_behind_the_gap() -> None:
    watch, told = Watch("/x"), []
    watch.on_change(lambda obj, exists: told.append((obj["metadata"]["uid"], exists)))
    watch.replace([_object("a", "1"), _object("b", "1"), _object("c", "1")])
    told.clear()
    watch.replace([_object("a", "1"), _object("b", "2"), _object("d", "1")])
    assert told == [("c", False), ("b", True), ("d", True)]
    assert set(watch.objects) == {"a", "b", "d"}


def test_probe_verdicts_need_equal_results_in_a_row() -> None:
    counter = Counter(success_threshold=1, failure_threshold=3)
    verdicts = []
    for result in (False, False, True, False, False, False, True):
        counter = counter.after(result)
        verdicts.append(counter.verdict)
    assert verdicts == [None, None, True, True, True, False, True]


def test_back_off_starts_at_once_and_doubles_up_to_its_ceiling() -> None:
    back_off = BackOff(10, 300)
    assert [back_off.take() for _ in range(8)] == [0, 10, 20, 40, 80, 160, 300, 300]
    back_off.reset()
    assert back_off.take() == 0


async def test_a_log_keeps_lines_and_is_followed_to_its_end(tmp_path: Path) -> None:
    log = logs.ContainerLog(tmp_path / "deep" / "0.log")
    output = await log.open()
    seen: list[bytes] = []

    async def follow() -> None:
        async for record in log.follow():
            seen.append(logs.render(record, timestamps=False))

    follower = asyncio.create_task(follow())
    os.write(output, b"one\ntw")
    os.write(output, b"o\n" + b"x" * 40_000 + b"\nno end")
    os.close(output)
    await asyncio.wait_for(follower, 5)
    assert b"".join(seen) == b"one\ntwo\n" + b"x" * 40_000 + b"\nno end"
    records = log.path.read_bytes().splitlines()
    assert b"".join(logs.render(r, timestamps=False) for r in logs.tail(records, 1)).endswith(b"no end")


def test_gpus_are_dealt_out_whole_and_taken_back() -> None:
    devices = Devices(_NODE)
    one, two = (Holder(namespace="ns", pod=name, container="main") for name in ("one", "two"))
    first = devices.allocate("uid-1", [(one, 3)])["main"]
    with pytest.raises(AdmissionError, match="Requested: 2, Available: 1"):
        devices.allocate("uid-2", [(two, 2)])
    last = devices.allocate("uid-2", [(two, 1)])["main"]
    assert len({device.uuid for device in (*first, *last)}) == 4
    devices.release("uid-1")
    assert [devices.holder(device) for device in devices.all].count(None) == 3
    assert devices.holder(last[0]) == ("uid-2", two)


def test_utilisation_is_what_was_burnt_of_the_allowance_within_the_window() -> None:
    meter = Meter(cores=2 * _A100.core_share)
    assert meter.utilisation == 0
    for second in range(10):
        meter.sample(second, {7: second * 0.25}, 0)
    assert meter.utilisation == pytest.approx(0.25)
    for second in range(10, 13):
        meter.sample(second, {7: 9 * 0.25}, 0)
    assert meter.utilisation == 0


def test_utilisation_survives_restarts_and_never_exceeds_one() -> None:
    meter = Meter(cores=0.5)
    meter.sample(0, {7: 100.0}, 0)
    meter.sample(1, {7: 100.5}, 0)
    meter.sample(2, {8: 0.5}, 0)
    assert meter.utilisation == pytest.approx(1.0)
    meter.sample(3, {8: 30.0}, 0)
    assert meter.utilisation == 1.0


def test_the_exporter_writes_pod_labels_for_held_gpus_only() -> None:
    device, other = Devices(_NODE).all[:2]
    holder = Holder(namespace="ns", pod="p", container="main")
    held = Reading(
        device=device, node="n", kind=_A100, holder=holder, utilisation=0.807, used_bytes=512 * 2**20
    )
    lines = gpu.render([held, Reading(device=other, node="n", kind=_A100)]).splitlines()
    labels = f'gpu="0",UUID="{device.uuid}",device="nvidia0",modelName="NVIDIA-A100-SIM",Hostname="n"'
    labels += ',container="main",namespace="ns",pod="p"'
    assert f"DCGM_FI_DEV_GPU_UTIL{{{labels}}} 81" in lines
    assert f"DCGM_FI_DEV_FB_FREE{{{labels}}} {40960 - 512}" in lines
    assert sum('pod="' in line for line in lines) == 3
    assert "# TYPE DCGM_FI_DEV_GPU_UTIL gauge" in lines


def _endpoints() -> Endpoints:
    services, slices, endpoints = Watch("/s"), Watch("/e"), Endpoints()
    endpoints.follow(services, slices)

    def service(name: str, address: str) -> dict[str, Any]:
        return {
            "metadata": {"uid": name, "namespace": "ns", "name": name},
            "spec": {"clusterIP": address},
        }

    services.replace([service("web", "10.96.0.7"), service("team", "None"), service("empty", "None")])
    pods = [
        {"addresses": ["10.244.0.3"], "hostname": "team-0", "conditions": {"ready": True}},
        {"addresses": ["10.244.0.4"], "hostname": "team-1", "conditions": {"ready": True}},
        {"addresses": ["10.244.0.5"], "hostname": "team-2", "conditions": {"ready": False}},
    ]
    labels = {"kubernetes.io/service-name": "team"}
    slices.replace([{"metadata": {"uid": "e", "namespace": "ns", "labels": labels}, "endpoints": pods}])
    return endpoints


@pytest.mark.parametrize(
    ("name", "addresses"),
    [
        ("web.ns", ["10.96.0.7"]),
        ("WEB.ns", ["10.96.0.7"]),
        ("team.ns", ["10.244.0.3", "10.244.0.4"]),
        ("team-1.team.ns", ["10.244.0.4"]),
        ("team-2.team.ns", None),
        ("empty.ns", []),
        ("web", None),
        ("web.other", None),
        ("a.b.team.ns", None),
    ],
)
def test_names_inside_the_cluster(name: str, addresses: list[str] | None) -> None:
    assert dns.lookup(f"{name}.svc.cluster.local", "cluster.local", _endpoints()) == addresses


def _ask(name: str, kind: str = "A") -> Any:
    query: Any = dnslib.DNSRecord.question(name, kind)  # type: ignore[no-untyped-call]
    reply = dns.answer(query.pack(), "cluster.local", _endpoints(), udp=True)
    return dnslib.DNSRecord.parse(reply)  # type: ignore[no-untyped-call]


def test_dns_answers() -> None:
    found = _ask("team.ns.svc.cluster.local")
    assert [str(record.rdata) for record in found.rr] == ["10.244.0.3", "10.244.0.4"]
    assert _ask("example.com").header.rcode == dnslib.RCODE.NXDOMAIN
    missing_kind = _ask("team.ns.svc.cluster.local", "AAAA")
    assert (missing_kind.header.rcode, missing_kind.rr) == (dnslib.RCODE.NOERROR, [])


def test_a_process_line_with_a_nasty_name() -> None:
    line = "7 (a) b (c) S 3 7 7 0 -1 4194304 1 2 3 4 100 50 20 30 20 0 1 0 5 1000 9 18446744073709551615"
    usage = processes.parse_stat(line)
    assert (usage.parent, usage.cpu_seconds) == (3, 200 / os.sysconf("SC_CLK_TCK"))
    assert usage.resident_bytes == 9 * os.sysconf("SC_PAGE_SIZE")


def test_trees_hold_all_descendants() -> None:
    def usage(parent: int) -> processes.Usage:
        return processes.Usage(parent=parent, cpu_seconds=0, resident_bytes=0)

    found = {1: usage(0), 2: usage(1), 3: usage(2), 4: usage(2), 5: usage(1), 6: usage(5)}
    trees = processes.trees(found, [2, 5, 99])
    assert {root: sorted(members) for root, members in trees.items()} == {2: [2, 3, 4], 5: [5, 6]}


class _TokenApi:
    """Gives out numbered tokens, fails the second time."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.third = asyncio.Event()

    async def create(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        assert path == "/api/v1/namespaces/ns/serviceaccounts/robot/token"
        self.asked.append(body["spec"])
        if len(self.asked) == 2:
            raise ApiError(500, "not today")
        if len(self.asked) == 3:
            self.third.set()
        return {"status": {"token": f"token-{len(self.asked)}"}}


async def test_tokens_are_renewed_before_they_expire(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(volumes, "_RETRY_SECONDS", 0.01)
    token = {"path": "token", "expirationSeconds": 0.05, "audience": "cra"}
    projected = {"sources": [{"serviceAccountToken": token}]}
    pod = {
        "metadata": {"name": "p", "namespace": "ns", "uid": "u"},
        "spec": {"serviceAccountName": "robot", "volumes": [{"name": "api", "projected": projected}]},
    }
    facts = Facts(node_name="n", host_ip="", pod_ip="", allocatable={})
    api: Any = _TokenApi()
    made = volumes.Volumes(api, pod, facts, directory=tmp_path / "v", host_paths=tmp_path / "h")
    await made.set_up()
    file = made.paths["api"] / "token"
    assert file.read_text() == "token-1"
    task = asyncio.create_task(made.keep_tokens_fresh())
    async with asyncio.timeout(5):
        await api.third.wait()
        await asyncio.sleep(0.01)
    task.cancel()
    assert file.read_text() == "token-3"
    assert api.asked[0]["boundObjectRef"]["uid"] == "u"
    assert api.asked[0]["audiences"] == ["cra"]


async def test_the_throttler_holds_a_busy_process_to_its_share_and_lets_it_go() -> None:
    busy = await asyncio.create_subprocess_exec(sys.executable, "-I", "-S", "-c", "while True: pass")

    def burnt() -> float:
        usage = processes.read(busy.pid)
        assert usage is not None
        return usage.cpu_seconds

    quota = SignalQuota(lambda _: [busy.pid])
    try:
        quota.limit("pod", 0.3)
        await asyncio.sleep(0.3)
        start, before = time.monotonic(), burnt()
        await asyncio.sleep(1.5)
        assert (burnt() - before) / (time.monotonic() - start) < 0.36
        quota.limit("pod", None)
        before = burnt()
        await asyncio.sleep(0.5)
        assert burnt() > before
    finally:
        quota.close()
        busy.kill()
        await busy.wait()
