"""What the chart renders for the values that it is given."""

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from cra_operator.config import Config, load
from cra_operator.controller.sharing import Queue, Quota
from cra_operator.controller.signals import SIGNALS
from cra_operator.names import LEARNED
from tests.chart.rendering import CHART, Helm, HelmError, Manifest, container, deployment, of_kind

REPOSITORY = CHART.parents[1]
CRD = REPOSITORY / "crds" / "cra.dev_cratrainingjobs.yaml"

READS = {"get", "list", "watch"}


def environment(objects: Iterable[Manifest]) -> dict[str, str]:
    """The container's environment, with the pod's own name and namespace filled in."""
    own = {"metadata.name": "cra-operator-0", "metadata.namespace": "cra-system"}
    return {
        entry["name"]: entry["value"]
        if "value" in entry
        else own[entry["valueFrom"]["fieldRef"]["fieldPath"]]
        for entry in container(objects)["env"]
    }


def granted(objects: Iterable[Manifest], *kinds: str) -> list[tuple[str, str, frozenset[str]]]:
    """(group, resource, verbs) of the roles that the operator's account is bound to."""
    objects = list(objects)
    bound = {
        (binding["roleRef"]["kind"], binding["roleRef"]["name"], binding["metadata"].get("namespace"))
        for binding in objects
        if binding["kind"] in ("ClusterRoleBinding", "RoleBinding")
    }
    return [
        (group, resource, frozenset(rule["verbs"]))
        for role in objects
        if role["kind"] in kinds
        and (role["kind"], role["metadata"]["name"], role["metadata"].get("namespace")) in bound
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    ]


def test_lint_has_nothing_to_say(helm: Helm) -> None:
    assert "0 chart(s) failed" in helm.run("lint", "--strict", str(CHART))


def test_the_chart_brings_the_one_crd() -> None:
    """On failure: cp crds/cra.dev_cratrainingjobs.yaml charts/cra-operator/files/crd.yaml"""
    assert (CHART / "files" / "crd.yaml").read_text() == CRD.read_text()


@pytest.mark.parametrize("keep", [True, False])
def test_the_crd_is_rendered_whole_and_kept_if_wanted(helm: Helm, keep: bool) -> None:
    (rendered,) = of_kind(helm.objects("--set", f"crds.keep={json.dumps(keep)}"), "CustomResourceDefinition")
    source = yaml.safe_load(CRD.read_text())
    assert rendered["spec"] == source["spec"]
    policy = rendered["metadata"].get("annotations", {}).get("helm.sh/resource-policy")
    assert policy == ("keep" if keep else None)


def test_the_crd_may_be_left_out(helm: Helm) -> None:
    assert of_kind(helm.objects("--set", "crds.enabled=false"), "CustomResourceDefinition") == []


def test_the_operator_understands_its_environment(helm: Helm) -> None:
    assert load(environment(helm.objects())) == Config(
        trainer_image="cra-trainer:0.1.0", pod_namespace="cra-system", pod_name="cra-operator-0"
    )


def test_every_setting_reaches_the_operator(helm: Helm, tmp_path: Path) -> None:
    values = {
        "watchNamespaces": ["team-a", "team-b"],
        "trainer": {
            "image": {"registry": "images.internal/", "digest": "sha256:" + "a" * 64, "pullPolicy": "Always"}
        },
        "prometheus": {
            "url": "https://metrics.internal/",
            "bearerToken": {"secretName": "reader"},
            "ca": {"configMapName": "authorities", "key": "service-ca.crt"},
            "queries": {"utilization": "avg_over_time(DCGM_FI_PROF_SM_ACTIVE[1m])"},
        },
        "observe": {"intervalSeconds": 2.5},
        "controller": {
            "policy": "sarsa",
            "learnOnline": True,
            "warmUpSeconds": 1.5,
            "hysteresisPercent": 12,
            "startPercent": 25,
            "halfLifeHours": 6,
        },
        "quotas": {"team-a": {"gpus": 16}, "team-b": {"gpus": 8, "borrow": False}},
        "queues": {"research": {"gpuHours": 1000.5, "weight": 2}, "rest": {}},
        "resyncSeconds": 60,
        "leaderElection": {"enabled": False},
        "logLevel": "DEBUG",
    }
    file = tmp_path / "values.yaml"
    file.write_text(yaml.safe_dump(values))
    assert load(environment(helm.objects("-f", str(file)))) == Config(
        watch_namespaces=("team-a", "team-b"),
        trainer_image="images.internal/cra-trainer@sha256:" + "a" * 64,
        trainer_image_pull_policy="Always",
        prometheus_url="https://metrics.internal",
        prometheus_token_file=Path("/etc/cra/prometheus-token/token"),
        prometheus_ca_file=Path("/etc/cra/prometheus-ca/service-ca.crt"),
        prometheus_queries={"utilization": "avg_over_time(DCGM_FI_PROF_SM_ACTIVE[1m])"},
        policy="sarsa",
        learn_online=True,
        warm_up=1.5,
        hysteresis=0.12,
        start=0.25,
        half_life_hours=6,
        quotas={"team-a": Quota(gpus=16), "team-b": Quota(gpus=8, borrow=False)},
        queues={"research": Queue(gpu_hours=1000.5, weight=2), "rest": Queue()},
        observe_interval=2.5,
        resync=60,
        leader_election=False,
        pod_namespace="cra-system",
        pod_name="cra-operator-0",
        log_level="DEBUG",
    )


@pytest.mark.parametrize(
    ("setting", "variable", "mounted"),
    [
        (
            "prometheus.bearerToken.secretName=reader",
            "CRA_PROMETHEUS_TOKEN_FILE",
            {"name": "prometheus-token", "secret": {"secretName": "reader"}},
        ),
        (
            "prometheus.ca.secretName=ca",
            "CRA_PROMETHEUS_CA_FILE",
            {"name": "prometheus-ca", "secret": {"secretName": "ca"}},
        ),
        (
            "prometheus.ca.configMapName=ca",
            "CRA_PROMETHEUS_CA_FILE",
            {"name": "prometheus-ca", "configMap": {"name": "ca"}},
        ),
    ],
)
def test_what_prometheus_wants_to_see_is_mounted_where_the_operator_reads_it(
    helm: Helm, setting: str, variable: str, mounted: Manifest
) -> None:
    objects = helm.objects("--set", setting)
    assert deployment(objects)["spec"]["template"]["spec"]["volumes"] == [mounted]
    (mount,) = container(objects)["volumeMounts"]
    assert mount["name"] == mounted["name"]
    assert environment(objects)[variable].startswith(mount["mountPath"] + "/")


def test_a_token_may_be_a_file_that_the_pod_has_anyway(helm: Helm) -> None:
    own = "/var/run/secrets/kubernetes.io/serviceaccount/token"
    objects = helm.objects("--set", f"prometheus.bearerToken.file={own}")
    assert environment(objects)["CRA_PROMETHEUS_TOKEN_FILE"] == own
    assert "volumes" not in deployment(objects)["spec"]["template"]["spec"]


def test_every_signal_may_have_a_query_of_its_own() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    assert set(values["prometheus"]["queries"]) == set(SIGNALS)


def test_ports_of_probes_and_metrics_are_those_of_the_environment(helm: Helm) -> None:
    objects = helm.objects()
    config = load(environment(objects))
    ports = {port["name"]: port["containerPort"] for port in container(objects)["ports"]}
    assert ports == {"metrics": config.metrics_port, "health": config.health_port}
    assert container(objects)["livenessProbe"]["httpGet"] == {"path": "/healthz", "port": "health"}
    assert container(objects)["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": "health"}
    annotations = deployment(objects)["spec"]["template"]["metadata"]["annotations"]
    assert annotations["prometheus.io/port"] == str(config.metrics_port)
    (service,) = of_kind(objects, "Service")
    assert service["spec"]["ports"][0]["targetPort"] == "metrics"


@pytest.mark.parametrize(
    ("settings", "image"),
    [
        ((), "cra-operator:0.1.0"),
        (("image.tag=2.0",), "cra-operator:2.0"),
        (("image.registry=images.internal", "image.repository=ml/op"), "images.internal/ml/op:0.1.0"),
        (("image.tag=2.0", f"image.digest=sha256:{'b' * 64}"), f"cra-operator@sha256:{'b' * 64}"),
    ],
)
def test_image_names(helm: Helm, settings: tuple[str, ...], image: str) -> None:
    assert (
        container(helm.objects(*(part for value in settings for part in ("--set-string", value))))["image"]
        == image
    )


REFUSED = [
    ("imge.tag=1", "imge"),
    ("image.tagg=1", "tagg"),
    ("watchNamespaces=team-a", "watchNamespaces"),
    ("watchNamespaces={Team A}", "watchNamespaces"),
    ("prometheus.url=prometheus:9090", "prometheus/url"),
    ("observe.intervalSeconds=0", "observe/intervalSeconds"),
    ("logLevel=loud", "logLevel"),
    ("controller.policy=best", "controller/policy"),
    ("controller.hysteresis=1", "hysteresis"),
    ("controller.halfLifeHours=0", "controller/halfLifeHours"),
    ("quotas.team-a.borrow=true", "gpus"),
    ("queues.research.gpuHours=-1", "gpuHours"),
    ("prometheus.queries.memory=up", "memory"),
    ("prometheus.bearerToken.file=token", "prometheus/bearerToken/file"),
    ("image.pullPolicy=Sometimes", "image/pullPolicy"),
    ("image.digest=abc", "image/digest"),
    ("replicas=two", "replicas"),
    ("leaderElection.enabled=maybe", "leaderElection/enabled"),
    ("networkPolicy.apiServerPorts={70000}", "apiServerPorts"),
    ("resources.limit.cpu=1", "resources"),
    ("monitoring.interval=15", "monitoring/interval"),
]


@pytest.mark.parametrize(("setting", "named"), REFUSED, ids=[setting for setting, _ in REFUSED])
def test_a_value_with_a_typo_is_refused_by_name(helm: Helm, setting: str, named: str) -> None:
    with pytest.raises(HelmError) as refused:
        helm.render("--set", setting)
    assert named in str(refused.value)


def test_two_operators_need_leader_election(helm: Helm) -> None:
    with pytest.raises(HelmError, match="set replicas to 1 or enable it"):
        helm.render("--set", "replicas=2,leaderElection.enabled=false")


def test_without_leader_election_pods_never_overlap(helm: Helm) -> None:
    objects = helm.objects("--set", "leaderElection.enabled=false")
    assert deployment(objects)["spec"]["strategy"] == {"type": "Recreate"}
    assert all(resource != "leases" for _, resource, _ in granted(objects, "Role"))


def test_an_account_that_is_not_made_must_be_named(helm: Helm) -> None:
    with pytest.raises(HelmError, match=r"serviceAccount\.name is needed"):
        helm.render("--set", "serviceAccount.create=false")
    objects = helm.objects("--set", "serviceAccount.create=false,serviceAccount.name=mine")
    assert of_kind(objects, "ServiceAccount") == []
    assert {s["name"] for b in of_kind(objects, "ClusterRoleBinding") for s in b["subjects"]} == {"mine"}


def test_the_operator_may_do_what_it_does_and_no_more(helm: Helm) -> None:
    objects = helm.objects()
    assert set(granted(objects, "ClusterRole")) == {
        ("cra.dev", "cratrainingjobs", frozenset({*READS, "delete"})),
        ("cra.dev", "cratrainingjobs/status", frozenset({"patch"})),
        ("cra.dev", "cratrainingjobs/finalizers", frozenset({"update"})),
        ("", "pods", frozenset({*READS, "create", "delete"})),
        ("", "resourcequotas", frozenset(READS)),
        ("", "services", frozenset({"create", "patch"})),
        ("", "persistentvolumeclaims", frozenset({"create", "patch"})),
        ("events.k8s.io", "events", frozenset({"create", "patch"})),
        ("", "nodes", frozenset(READS)),
        ("scheduling.k8s.io", "priorityclasses", frozenset(READS)),
    }
    assert {resource for _, resource, _ in granted(objects, "Role")} == {"leases"}


def test_only_with_online_learning_it_may_have_one_config_map_of_its_own(helm: Helm) -> None:
    rules = {
        (tuple(rule["resources"]), tuple(rule.get("resourceNames", [])), tuple(rule["verbs"]))
        for role in of_kind(helm.objects("--set", "controller.learnOnline=true"), "Role")
        for rule in role["rules"]
        if "configmaps" in rule["resources"]
    }
    assert rules == {
        (("configmaps",), (), ("create",)),
        (("configmaps",), (LEARNED,), ("get", "patch")),
    }


def test_no_role_has_wildcards_or_secrets(helm: Helm) -> None:
    for role in helm.objects():
        for rule in role.get("rules", []) if "Role" in role["kind"] else []:
            assert "*" not in [*rule["apiGroups"], *rule["resources"], *rule["verbs"]]
            assert not {"secrets", "configmaps", "pods/exec", "serviceaccounts/token"} & set(
                rule["resources"]
            )


def test_in_namespaced_mode_nothing_may_be_written_cluster_wide(helm: Helm) -> None:
    objects = helm.objects("--set", "watchNamespaces={team-a,team-b}")
    assert {verb for _, _, verbs in granted(objects, "ClusterRole") for verb in verbs} == READS
    roles = {
        role["metadata"]["namespace"]: role for role in of_kind(objects, "Role") if len(role["rules"]) > 2
    }
    assert roles.keys() == {"team-a", "team-b"}
    everywhere = granted(helm.objects(), "ClusterRole")
    within = {entry for entry in granted(objects, "Role") if entry[1] != "leases"}
    assert within == {entry for entry in everywhere if entry[1] not in ("nodes", "priorityclasses")}
    bindings = [b for b in of_kind(objects, "RoleBinding") if b["metadata"]["namespace"] in roles]
    assert all(s["namespace"] == "cra-system" for b in bindings for s in b["subjects"])


def test_releases_in_other_namespaces_do_not_collide(helm: Helm) -> None:
    def cluster_wide(namespace: str) -> set[tuple[str, str]]:
        text = helm.render("--set", "crds.enabled=false", namespace=namespace)
        objects = [document for document in yaml.safe_load_all(text) if document]
        return {(o["kind"], o["metadata"]["name"]) for o in objects if "namespace" not in o["metadata"]}

    assert cluster_wide("one")
    assert not cluster_wide("one") & cluster_wide("two")


def test_a_disruption_budget_comes_with_the_second_replica(helm: Helm) -> None:
    assert of_kind(helm.objects(), "PodDisruptionBudget") == []
    (budget,) = of_kind(helm.objects("--set", "replicas=2"), "PodDisruptionBudget")
    assert budget["spec"]["maxUnavailable"] == 1


def test_monitors_need_the_prometheus_operator(helm: Helm) -> None:
    wanted = ("--set", "monitoring.enabled=true,monitoring.labels.release=stack")
    assert not [o for o in helm.objects(*wanted) if "Monitor" in o["kind"]]
    objects = helm.objects(*wanted, "--api-versions", "monitoring.coreos.com/v1")
    monitors = {o["kind"]: o for o in objects if "Monitor" in o["kind"]}
    assert monitors.keys() == {"ServiceMonitor", "PodMonitor"}
    assert all(o["metadata"]["labels"]["release"] == "stack" for o in monitors.values())
    selected = monitors["PodMonitor"]["spec"]["selector"]["matchLabels"]
    assert selected == {"app.kubernetes.io/managed-by": "cra-operator"}


@pytest.mark.parametrize(
    ("url", "port"),
    [
        ("http://prometheus.monitoring.svc:9090", 9090),
        ("http://metrics.internal", 80),
        ("https://metrics.internal", 443),
    ],
)
def test_the_network_policy_lets_out_to_prometheus(helm: Helm, url: str, port: int) -> None:
    (policy,) = of_kind(
        helm.objects("--set", f"networkPolicy.enabled=true,prometheus.url={url}"), "NetworkPolicy"
    )
    assert {"ports": [{"port": port}]} in policy["spec"]["egress"]
    assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]


def test_places_and_extras_are_passed_on(helm: Helm, tmp_path: Path) -> None:
    values: Mapping[str, Any] = {
        "nodeSelector": {"pool": "system"},
        "tolerations": [{"key": "system", "operator": "Exists"}],
        "affinity": {"nodeAffinity": {}},
        "topologySpreadConstraints": [{"maxSkew": 1}],
        "priorityClassName": "system-cluster-critical",
    }
    more = {
        "extraEnv": [{"name": "HTTPS_PROXY", "value": "http://proxy"}],
        "podAnnotations": {"a": "b"},
        "podLabels": {"c": "d"},
        "commonLabels": {"e": "f"},
        "image": {"pullSecrets": [{"name": "pull"}]},
    }
    file = tmp_path / "values.yaml"
    file.write_text(yaml.safe_dump({**values, **more}))
    objects = helm.objects("-f", str(file))
    pod = deployment(objects)["spec"]["template"]
    assert {key: pod["spec"][key] for key in values} == values
    assert more["extraEnv"][0] in container(objects)["env"]  # type: ignore[index]
    assert pod["spec"]["imagePullSecrets"] == [{"name": "pull"}]
    assert pod["metadata"]["annotations"]["a"] == "b"
    assert pod["metadata"]["labels"]["c"] == "d"
    assert all(o["metadata"]["labels"]["e"] == "f" for o in objects)


def leaves(values: Mapping[str, Any], path: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict) and value and not path.endswith(("resources.", "ontext.")):
            yield from leaves(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", value


def test_the_readme_lists_every_value_with_its_default() -> None:
    rows = dict(re.findall(r"^\| `([\w.]+)` \| (.*?) \| ", (CHART / "README.md").read_text(), re.MULTILINE))
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    contexts = {key: values.pop(key) for key in ("podSecurityContext", "securityContext")}
    resources = values.pop("resources")
    told = dict(leaves(values))
    assert rows.keys() == told.keys() | contexts.keys() | {f"resources.{key}" for key in resources}
    for name, default in told.items():
        shown = default if isinstance(default, str) and default else json.dumps(default)
        assert rows[name] == f"`{shown}`", name
