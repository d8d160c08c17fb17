"""What containers find in their files and environment."""

import base64
import json
from pathlib import Path

import pytest

from tests.node.user import User, python, shell

pytestmark = pytest.mark.cluster


def _mounts(**paths: str) -> list[dict[str, str]]:
    return [{"name": name, "mountPath": path} for name, path in paths.items()]


def test_config_maps_secrets_and_the_downward_api_become_files(user: User) -> None:
    user.kubectl("create", "configmap", "settings", "--from-literal=a.txt=alpha", "--from-literal=b.txt=beta")
    user.kubectl("create", "secret", "generic", "keys", "--from-literal=token=hush")
    label = {"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}
    memory = {"containerName": "main", "resource": "limits.memory", "divisor": "1Mi"}
    volumes = [
        {"name": "settings", "configMap": {"name": "settings", "items": [{"key": "b.txt", "path": "x/b"}]}},
        {"name": "keys", "secret": {"secretName": "keys", "defaultMode": 0o400}},
        {
            "name": "about",
            "downwardAPI": {"items": [label, {"path": "memory", "resourceFieldRef": memory}]},
        },
        {"name": "absent", "configMap": {"name": "no-such-thing", "optional": True}},
    ]
    script = """
        cat /etc/settings/x/b; echo
        cat /var/keys/token; stat -c ' %a' /var/keys/token
        cat /about/labels /about/memory; echo
        ls /absent | wc -l
        touch /etc/settings/new 2> /dev/null || echo read-only
    """
    container = {
        "volumeMounts": _mounts(settings="/etc/settings", keys="/var/keys", about="/about", absent="/absent"),
        "resources": {"limits": {"memory": "64Mi"}},
    }
    user.run("reader", shell(script), container=container, volumes=volumes)
    assert user.output("reader").splitlines() == ["beta", "hush 400", 'app="reader"64', "0", "read-only"]


def test_a_claim_of_the_standard_class_outlives_its_pods(user: User) -> None:
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "data"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
    }
    volumes = [{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}]
    container = {"volumeMounts": _mounts(data="/data")}
    user.apply(claim)
    user.run("writes", shell("echo kept > /data/file"), container=container, volumes=volumes)
    user.output("writes")
    part = {"volumeMounts": [{"name": "data", "mountPath": "/part", "subPath": "inner/folder"}]}
    user.run("part", shell("echo deep > /part/file"), container=part, volumes=volumes)
    user.output("part")
    user.kubectl("delete", "pod", "writes", "part")
    user.run("reads", shell("cat /data/file /data/inner/folder/file"), container=container, volumes=volumes)
    assert user.output("reads") == "kept\ndeep\n"
    volume = user.get("persistentvolumeclaim/data")["spec"]["volumeName"]
    user.kubectl("delete", "pod", "reads")
    user.kubectl("delete", "persistentvolumeclaim", "data")
    user.kubectl("wait", "--for=delete", f"persistentvolume/{volume}", "--timeout=30s")


def test_a_claim_that_does_not_exist_holds_the_pod(user: User) -> None:
    volumes = [{"name": "gone", "configMap": {"name": "gone"}}]
    user.run("waits", ["true"], container={"volumeMounts": _mounts(gone="/gone")}, volumes=volumes)
    user.kubectl("wait", "--for=create", "event", "--field-selector=reason=FailedMount", "--timeout=30s")
    assert user.get("pod/waits")["status"]["phase"] == "Pending"
    user.kubectl("create", "configmap", "gone", "--from-literal=a=b")
    user.output("waits")


def test_containers_share_an_empty_dir_and_nothing_else(user: User) -> None:
    wait = "until test -e /shared/file; do sleep 0.05; done; cat /shared/file; ls /tmp; ls /data"
    other = {
        "name": "other",
        "image": "host",
        "command": shell(wait),
        "volumeMounts": _mounts(memory="/shared"),
    }
    script = "touch /tmp/mine; mkdir /data; echo ours > /shared/file; stat -f -c %T /shared"
    main = {
        "name": "main",
        "image": "host",
        "command": shell(script),
        "volumeMounts": _mounts(memory="/shared"),
    }
    volumes = [{"name": "memory", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}}]
    user.run("pair", [], containers=[main, other], volumes=volumes)
    user.wait("pod/pair", ".status.phase", "Failed")
    assert user.kubectl("logs", "pair", "--container=main") == "tmpfs\n"
    assert user.kubectl("logs", "pair", "--container=other").splitlines()[0] == "ours"
    assert "mine" not in user.kubectl("logs", "pair", "--container=other")


def test_a_host_path_belongs_to_the_simulated_node(user: User) -> None:
    volumes = [{"name": "node", "hostPath": {"path": "/var/cra-test", "type": "DirectoryOrCreate"}}]
    container = {"volumeMounts": _mounts(node="/node")}

    def run(name: str, node: str, script: str) -> None:
        user.run(name, shell(script), container=container, volumes=volumes, nodeName=node)

    run("writes", "cpu-0", "echo here > /node/file")
    user.output("writes")
    run("same", "cpu-0", "cat /node/file; rm /node/file")
    run("other", "gpu-a-0", "ls /node | wc -l")
    assert user.output("same") == "here\n"
    assert user.output("other") == "0\n"
    assert not Path("/var/cra-test").exists()


def test_the_host_cannot_be_written_to(user: User) -> None:
    script = """
        for folder in /usr /etc /home /var /opt; do touch $folder/intruder 2> /dev/null && echo $folder; done
        touch /tmp/fine /fine /dev/shm/fine && echo own files
    """
    user.run("tries", shell(script))
    assert user.output("tries") == "own files\n"
    closed = {"securityContext": {"readOnlyRootFilesystem": True}}
    user.run("closed", shell("touch /tmp/x 2> /dev/null || touch /x || echo closed"), container=closed)
    assert user.output("closed").endswith("closed\n")


def test_the_image_survives_a_volume_mounted_over_tmp(user: User) -> None:
    volumes = [{"name": "scratch", "emptyDir": {}}]
    code = "import torch; open('/tmp/file', 'w').write('x'); print('fine')"
    container = {"volumeMounts": _mounts(scratch="/tmp"), "securityContext": {"readOnlyRootFilesystem": True}}
    user.run("scratch", python(code), container=container, volumes=volumes)
    assert user.output("scratch") == "fine\n"


def test_variables_come_from_everywhere(user: User) -> None:
    user.kubectl("create", "configmap", "settings", "--from-literal=COLOUR=red")
    secret = {"TOKEN": base64.b64encode(b"hush").decode()}
    user.apply({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "keys"}, "data": secret})
    env = [
        {"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
        {"name": "ADDRESS", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
        {"name": "APP", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['app']"}}},
        {"name": "CPUS", "valueFrom": {"resourceFieldRef": {"resource": "requests.cpu", "divisor": "1m"}}},
        {"name": "BOTH", "value": "$(K_TOKEN)-$(COLOUR)-$$(COLOUR)-$(NOBODY)"},
    ]
    sources = [
        {"configMapRef": {"name": "settings"}},
        {"secretRef": {"name": "keys"}, "prefix": "K_"},
        {"configMapRef": {"name": "no-such-thing", "optional": True}},
    ]
    names = "NODE ADDRESS APP CPUS COLOUR K_TOKEN BOTH"
    code = f"import json, os; print(json.dumps({{n: os.environ[n] for n in '{names}'.split()}}))"
    resources = {"requests": {"cpu": "250m"}}
    user.run("env", python(code), container={"env": env, "envFrom": sources, "resources": resources})
    seen = json.loads(user.output("env"))
    pod = user.get("pod/env")
    assert seen == {
        "NODE": pod["spec"]["nodeName"],
        "ADDRESS": pod["status"]["podIP"],
        "APP": "env",
        "CPUS": "250",
        "COLOUR": "red",
        "K_TOKEN": "hush",
        "BOTH": "hush-red-$(COLOUR)-$(NOBODY)",
    }
