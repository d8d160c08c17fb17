"""The chart on a real control plane: manifests are valid, rights are what they seem, nothing stays behind."""

import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
import yaml

from cra_operator.names import LEARNED
from e2e.local import Cluster
from tests.chart.rendering import CHART, Helm, Manifest, deployment

pytestmark = pytest.mark.cluster

Right = tuple[str, str]
"""A verb and what it is done to, as `group/resource:subresource`, or `group/resource=name` for one object."""

NEEDED: set[Right] = {
    ("watch", "cra.dev/cratrainingjobs"),
    ("delete", "cra.dev/cratrainingjobs"),
    ("patch", "cra.dev/cratrainingjobs:status"),
    ("create", "pods"),
    ("watch", "pods"),
    ("patch", "services"),
    ("patch", "persistentvolumeclaims"),
    ("create", "events.k8s.io/events"),
    ("list", "nodes"),
    ("watch", "resourcequotas"),
    ("watch", "scheduling.k8s.io/priorityclasses"),
}
FORBIDDEN: set[Right] = {
    ("get", "secrets"),
    ("get", "configmaps"),
    ("create", "pods:exec"),
    ("patch", "nodes"),
    ("update", "cra.dev/cratrainingjobs"),
    ("create", "cra.dev/cratrainingjobs"),
    ("create", "rbac.authorization.k8s.io/clusterroles"),
    ("impersonate", "users"),
}

VALUE_SETS: dict[str, Manifest] = {
    "defaults": {},
    "everything": {
        "replicas": 2,
        "prometheus": {"url": "http://prometheus.monitoring.svc:9090"},
        "networkPolicy": {
            "enabled": True,
            "extraEgress": [{"to": [{"ipBlock": {"cidr": "192.0.2.0/24"}}], "ports": [{"port": 3128}]}],
        },
        "commonLabels": {"team": "ml"},
        "podAnnotations": {"note": "yes"},
        "extraEnv": [{"name": "HTTPS_PROXY", "value": "http://192.0.2.1:3128"}],
        "nodeSelector": {"pool": "system"},
        "tolerations": [{"key": "system", "operator": "Exists"}],
        "topologySpreadConstraints": [
            {"maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "ScheduleAnyway"}
        ],
        "image": {"digest": f"sha256:{'0' * 64}", "pullSecrets": [{"name": "pull"}]},
    },
    "namespaced": {"watchNamespaces": ["team-a"], "leaderElection": {"enabled": False}},
}


@pytest.fixture
def place(control_plane: Cluster) -> Iterator[str]:
    """A fresh namespace that admits restricted pods only."""
    name = f"t-{uuid.uuid4().hex[:8]}"
    control_plane.kubectl("create", "namespace", name)
    control_plane.kubectl("label", "namespace", name, "pod-security.kubernetes.io/enforce=restricted")
    yield name
    control_plane.kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture(scope="module")
def team_a(control_plane: Cluster) -> str:
    """A namespace to look after."""
    control_plane.kubectl("create", "namespace", "team-a")
    return "team-a"


def allowed(cluster: Cluster, user: str, rights: Iterable[Right], namespace: str = "") -> set[Right]:
    """Those of the rights that the API server's authorizer grants; no namespace means in all of them."""
    rights = list(rights)
    reviews = yaml.safe_dump_all(review(user, right, namespace) for right in rights)
    told = 'jsonpath={.status.allowed}{"\\n"}'
    answers = cluster.kubectl("create", "-f", "-", "-o", told, stdin=reviews).split("\n")
    return {right for right, answer in zip(rights, answers, strict=False) if answer == "true"}


def review(user: str, right: Right, namespace: str) -> Manifest:
    """The question to the authorizer."""
    verb, what = right
    group, _, kind = what.rpartition("/")
    kind, _, name = kind.partition("=")
    kind, _, subresource = kind.partition(":")
    attributes = {"verb": verb, "group": group, "resource": kind, "subresource": subresource, "name": name}
    return {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {
            "user": user,
            "groups": ["system:authenticated"],
            "resourceAttributes": {**attributes, "namespace": namespace},
        },
    }


def owned(cluster: Cluster, release: str) -> set[str]:
    """Everything in the cluster that carries the release's label."""
    kinds = ",".join(cluster.kubectl("api-resources", "--verbs=list", "-o", "name").split())
    label = f"app.kubernetes.io/instance={release}"
    return set(cluster.kubectl("get", kinds, "-A", "-l", label, "-o", "name", "--ignore-not-found").split())


def uninstall(cluster: Cluster, release: str, namespace: str) -> None:
    """Uninstall and wait for the garbage collector."""
    cluster.helm("uninstall", release, "-n", namespace, "--wait", "--cascade=foreground")


@pytest.mark.parametrize("values", VALUE_SETS.values(), ids=VALUE_SETS.keys())
def test_the_api_server_accepts_every_manifest(
    helm: Helm, control_plane: Cluster, team_a: str, place: str, tmp_path: Path, values: Manifest
) -> None:
    file = tmp_path / "values.yaml"
    file.write_text(yaml.safe_dump(values))
    text = helm.render("-f", str(file), namespace=place)
    said = control_plane.kubectl("apply", "--dry-run=server", "--validate=strict", "-f", "-", stdin=text)
    sent = [document for document in yaml.safe_load_all(text) if document]
    assert len(said.splitlines()) == len(sent) >= 9


def test_a_restricted_namespace_admits_the_pod(helm: Helm, control_plane: Cluster, place: str) -> None:
    pod = deployment(helm.objects())["spec"]["template"]
    # Its account is part of the installation; this is about what the pod itself asks for.
    pod["spec"]["serviceAccountName"] = "default"
    pod["metadata"] |= {"name": "operator", "namespace": place}
    pod |= {"apiVersion": "v1", "kind": "Pod"}
    control_plane.kubectl("wait", "-n", place, "--for=create", "serviceaccount/default", "--timeout=30s")
    said = control_plane.kubectl("create", "--dry-run=server", "-f", "-", stdin=yaml.safe_dump(pod))
    assert said.startswith("pod/operator created")


def test_install_gives_the_rights_and_uninstall_leaves_nothing_but_jobs(
    control_plane: Cluster, place: str
) -> None:
    control_plane.helm("install", "whole", str(CHART), "-n", place)
    control_plane.kubectl(
        "wait", "--for=condition=Established", "crd/cratrainingjobs.cra.dev", "--timeout=30s"
    )
    user = f"system:serviceaccount:{place}:whole-cra-operator"
    assert allowed(control_plane, user, NEEDED) == NEEDED
    assert allowed(control_plane, user, FORBIDDEN) == set()
    lease: Right = ("create", "coordination.k8s.io/leases")
    assert allowed(control_plane, user, [lease]) == set()
    assert allowed(control_plane, user, [lease], place) == {lease}

    examples = CHART.parents[1] / "examples"
    control_plane.kubectl("apply", "-n", place, "-f", str(examples / "digits-cnn.yaml"))
    assert len(owned(control_plane, "whole")) >= 10
    uninstall(control_plane, "whole", place)
    crd = "customresourcedefinition.apiextensions.k8s.io/cratrainingjobs.cra.dev"
    assert owned(control_plane, "whole") == {crd}
    assert "digits-cnn" in control_plane.kubectl("get", "crj", "-n", place, "-o", "name")
    assert control_plane.kubectl("get", "secrets", "-n", place, "-l", "owner=helm", "-o", "name") == ""
    control_plane.kubectl("delete", crd)


def test_what_is_learned_online_may_be_kept_in_one_config_map_and_no_other_be_read(
    control_plane: Cluster, place: str
) -> None:
    settings = "crds.enabled=false,controller.learnOnline=true"
    control_plane.helm("install", "learns", str(CHART), "-n", place, "--set", settings)
    user = f"system:serviceaccount:{place}:learns-cra-operator"

    own: set[Right] = {("get", f"configmaps={LEARNED}"), ("patch", f"configmaps={LEARNED}")}
    other: set[Right] = {("get", "configmaps=kube-root-ca.crt"), ("delete", f"configmaps={LEARNED}")}
    assert allowed(control_plane, user, own | other, place) == own
    assert allowed(control_plane, user, own | other, "default") == set()
    uninstall(control_plane, "learns", place)


def test_without_keeping_it_the_crd_goes_too(control_plane: Cluster, place: str) -> None:
    control_plane.helm("install", "gone", str(CHART), "-n", place, "--set", "crds.keep=false")
    uninstall(control_plane, "gone", place)
    assert owned(control_plane, "gone") == set()


def test_namespaced_rights_end_at_the_namespace(control_plane: Cluster, team_a: str, place: str) -> None:
    settings = f"crds.enabled=false,watchNamespaces={{{team_a}}}"
    control_plane.helm("install", "part", str(CHART), "-n", place, "--set", settings)
    user = f"system:serviceaccount:{place}:part-cra-operator"
    everywhere = {("list", "nodes"), ("watch", "scheduling.k8s.io/priorityclasses")}
    assert allowed(control_plane, user, NEEDED, team_a) == NEEDED
    for elsewhere in ("default", place, ""):
        assert allowed(control_plane, user, NEEDED, elsewhere) == everywhere
    uninstall(control_plane, "part", place)
    assert owned(control_plane, "part") == set()


def test_viewers_see_jobs_and_editors_edit_them(control_plane: Cluster, place: str) -> None:
    control_plane.helm("install", "roles", str(CHART), "-n", place, "--set", "crds.enabled=false")
    for role, rule in {
        "view": "@.apiGroups[0]=='cra.dev'",
        "edit": "@.resources[0]=='cratrainingjobs/status'",
    }.items():
        control_plane.kubectl(
            "create", "rolebinding", role, "-n", place, f"--clusterrole={role}", f"--user={role}er"
        )
        # The controller manager adds the rules in its own time.
        added = f"--for=jsonpath={{.rules[?({rule})].verbs[0]}}"
        control_plane.kubectl("wait", f"clusterrole/{role}", added, "--timeout=30s")
    job = "cra.dev/cratrainingjobs"
    rights = {("list", job), ("create", job), ("patch", f"{job}:scale"), ("patch", f"{job}:status")}
    assert allowed(control_plane, "viewer", rights, place) == {("list", job)}
    assert allowed(control_plane, "editer", rights, place) == rights - {("patch", f"{job}:status")}
    uninstall(control_plane, "roles", place)
