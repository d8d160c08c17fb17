"""Variables of containers, quantities, and the files that every pod gets."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from e2e.local.node import environ, files, quantity
from e2e.local.node.environ import Facts, MissingReferenceError

_FACTS = Facts(
    node_name="n", host_ip="10.0.0.1", pod_ip="10.0.0.2", allocatable={"cpu": "8", "memory": "16Gi"}
)
_POD: dict[str, Any] = {
    "metadata": {"name": "p", "namespace": "ns", "uid": "u", "labels": {"b": 'say "x"', "a": "1"}},
    "spec": {"serviceAccountName": "default"},
}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("$(A)", "1"),
        ("x$(A)y$(B)", "x1y2"),
        ("$(C)", "$(C)"),
        ("$$(A)", "$(A)"),
        ("$$$(A)", "$1"),
        ("$A ${A} $", "$A ${A} $"),
        ("$(A", "$(A"),
    ],
)
def test_expansion(text: str, expected: str) -> None:
    assert environ.expand(text, {"A": "1", "B": "2"}) == expected


@given(st.text(alphabet="ab ()x-", max_size=20))
def test_text_without_dollars_is_never_changed(text: str) -> None:
    assert environ.expand(text, {"a": "1"}) == text


@pytest.mark.parametrize(
    ("text", "value"),
    [("500m", 0.5), ("1Gi", 2**30), ("2", 2), ("1e3", 1000), ("1.5k", 1500), ("100u", 1e-4)],
)
def test_quantities(text: str, value: float) -> None:
    assert float(quantity.parse(text)) == value


@pytest.mark.parametrize("text", ["", "Gi", "1 Gi", "1gi", "--1"])
def test_what_is_no_quantity(text: str) -> None:
    with pytest.raises(ValueError, match="is not a quantity"):
        quantity.parse(text)


def test_variables_see_those_before_them_and_keep_their_order() -> None:
    env = [{"name": "B", "value": "$(A)$(C)"}, {"name": "C", "value": "3"}, {"name": "D", "value": "$(C)"}]
    built = environ.build({"env": env}, _POD, _FACTS, {}, {"A": "1"})
    assert built == {"A": "1", "B": "1$(C)", "C": "3", "D": "3"}


def test_missing_references_name_what_is_missing() -> None:
    def build(**variable: Any) -> dict[str, str]:
        container = {"env": [{"name": "X", "valueFrom": variable}]}
        return environ.build(container, _POD, _FACTS, {("ConfigMap", "there"): {"data": {}}}, {})

    with pytest.raises(MissingReferenceError, match='secret "s" not found'):
        build(secretKeyRef={"name": "s", "key": "k"})
    with pytest.raises(MissingReferenceError, match="couldn't find key k in ConfigMap ns/there"):
        build(configMapKeyRef={"name": "there", "key": "k"})
    assert build(configMapKeyRef={"name": "there", "key": "k", "optional": True}) == {}


def test_resource_fields_round_up_and_fall_back_to_the_node() -> None:
    container = {"resources": {"limits": {"memory": "100Mi"}, "requests": {"cpu": "250m"}}}

    def value(resource: str, divisor: str = "0") -> str:
        return environ.resource_field({"resource": resource, "divisor": divisor}, container, _FACTS)

    assert value("requests.cpu") == "1"
    assert value("requests.cpu", "1m") == "250"
    assert value("limits.memory", "1Mi") == "100"
    assert value("limits.cpu") == "8"
    assert value("requests.memory", "1Mi") == "100"


def test_labels_as_a_file() -> None:
    assert environ.field("metadata.labels", _POD, _FACTS) == 'a="1"\nb="say \\"x\\""'


def test_services_become_variables() -> None:
    def service(namespace: str, name: str, address: str) -> dict[str, Any]:
        ports = [{"name": "web", "port": 80}]
        return {
            "metadata": {"namespace": namespace, "name": name},
            "spec": {"clusterIP": address, "ports": ports},
        }

    services = [
        service("default", "kubernetes", "10.96.0.1"),
        service("ns", "my-api", "10.96.0.7"),
        service("ns", "headless", "None"),
        service("other", "far", "10.96.0.8"),
    ]
    built = environ.service_variables(services, "ns", links=True)
    assert built["KUBERNETES_SERVICE_HOST"] == "10.96.0.1"
    assert built["MY_API_SERVICE_PORT_WEB"] == "80"
    assert built["MY_API_PORT_80_TCP"] == "tcp://10.96.0.7:80"
    assert not any(name.startswith(("HEADLESS", "FAR")) for name in built)
    alone = environ.service_variables(services, "ns", links=False)
    assert {name.partition("_")[0] for name in alone} == {"KUBERNETES"}


def test_the_hosts_file_puts_the_full_name_first() -> None:
    spec = {
        "hostname": "j-1-0",
        "subdomain": "j",
        "hostAliases": [{"ip": "1.2.3.4", "hostnames": ["x", "y"]}],
    }
    text = files.hosts(_POD | {"spec": spec}, "10.0.0.2", "cluster.local")
    assert "10.0.0.2\tj-1-0.j.ns.svc.cluster.local\tj-1-0\n1.2.3.4\tx\ty\n" in text


def test_the_resolver_follows_the_policy() -> None:
    text = files.resolv_conf(_POD, "10.96.0.10", "cluster.local")
    assert text.splitlines() == [
        "nameserver 10.96.0.10",
        "search ns.svc.cluster.local svc.cluster.local cluster.local",
        "options ndots:5",
    ]
    own = {
        "dnsPolicy": "None",
        "dnsConfig": {"nameservers": ["9.9.9.9"], "options": [{"name": "ndots", "value": "1"}]},
    }
    text = files.resolv_conf(_POD | {"spec": own}, "10.96.0.10", "cluster.local")
    assert text == "nameserver 9.9.9.9\noptions ndots:1\n"
