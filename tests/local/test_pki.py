"""Certificates: who may serve what, who may be whom, and who trusts whom."""

import ipaddress
import stat
from pathlib import Path

import pytest
import yaml
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.x509.oid import NameOID

from e2e.local.layout import Layout
from e2e.local.pki import write_pki


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    """A state directory with everything that `write_pki` makes."""
    made = Layout(tmp_path_factory.mktemp("cluster"))
    made.pki.mkdir()
    made.config.mkdir()
    write_pki(made, ["10.244.255.10", "10.244.255.11"], "https://127.0.0.1:4321")
    return made


def certificate(layout: Layout, name: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate((layout.pki / f"{name}.crt").read_bytes())


def served(layout: Layout, name: str) -> set[str]:
    names = certificate(layout, name).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    addresses = {str(address) for address in names.get_values_for_type(x509.IPAddress)}
    return addresses | set(names.get_values_for_type(x509.DNSName))


def test_the_api_server_serves_all_names_by_which_it_is_called(layout: Layout) -> None:
    assert {
        "127.0.0.1",
        "localhost",
        "10.244.0.1",
        "10.96.0.1",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
    } <= served(layout, "apiserver")


def test_the_kubelet_api_serves_the_nodes_addresses(layout: Layout) -> None:
    assert served(layout, "kubelet") == {"10.244.255.10", "10.244.255.11"}
    assert all(ipaddress.ip_address(name).is_private for name in served(layout, "kubelet"))


@pytest.mark.parametrize(
    ("name", "user", "group"),
    [
        ("admin", "kubernetes-admin", "system:masters"),
        ("kube-scheduler", "system:kube-scheduler", None),
        ("kube-controller-manager", "system:kube-controller-manager", None),
        ("prometheus", "cra:prometheus", None),
    ],
)
def test_clients_are_who_rbac_takes_them_for(layout: Layout, name: str, user: str, group: str | None) -> None:
    subject = certificate(layout, name).subject
    assert [value.value for value in subject.get_attributes_for_oid(NameOID.COMMON_NAME)] == [user]
    groups = [value.value for value in subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)]
    assert groups == ([group] if group else [])


def test_the_store_trusts_nobody_whom_the_api_server_trusts(layout: Layout) -> None:
    store, everybody = certificate(layout, "etcd-ca"), certificate(layout, "ca")
    certificate(layout, "etcd-client").verify_directly_issued_by(store)
    certificate(layout, "admin").verify_directly_issued_by(everybody)
    with pytest.raises((InvalidSignature, ValueError)):
        certificate(layout, "admin").verify_directly_issued_by(store)


def test_nobody_else_can_read_what_is_written(layout: Layout) -> None:
    files = [path for path in layout.root.rglob("*") if path.is_file()]
    assert len(files) > 20
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}


def test_kubeconfigs_point_to_the_right_side(layout: Layout) -> None:
    def server(path: Path) -> str:
        config = yaml.safe_load(path.read_text())
        return str(config["clusters"][0]["cluster"]["server"])

    assert server(layout.kubeconfig) == "https://127.0.0.1:4321"
    assert server(layout.internal_kubeconfig("kube-scheduler")) == "https://127.0.0.1:6443"
