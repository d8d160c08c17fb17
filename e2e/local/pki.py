"""Certificates, keys and kubeconfigs of one cluster.

One authority signs everything that talks to the API server; a second one is trusted by etcd only, so that no
client of the API server can read the store. Keys are P-256: made in a millisecond, where RSA would cost a
second of start-up time. Nothing outlives the cluster's state directory, which only its owner can read.
"""

from __future__ import annotations

import base64
import datetime as dt
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from e2e.local.layout import (
    APISERVER_PORT,
    CLUSTER_DOMAIN,
    GATEWAY,
    KUBERNETES_SERVICE_IP,
    Layout,
)

_LIFETIME = dt.timedelta(days=365)
_CLOCK_SKEW = dt.timedelta(minutes=5)


@dataclass(frozen=True, kw_only=True)
class Identity:
    """Whom a certificate stands for.

    Attributes:
        file: Base name of the `.crt` and `.key` files.
        user: Common name; the user name where it serves as a client certificate.
        group: Organisation; the client's group.
        hosts: Names and addresses that it may serve; a pure client has none.
    """

    file: str
    user: str
    group: str = ""
    hosts: Sequence[str] = ()


APISERVER_HOSTS = (
    "localhost",
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    f"kubernetes.default.svc.{CLUSTER_DOMAIN}",
    "127.0.0.1",
    GATEWAY,
    KUBERNETES_SERVICE_IP,
)

# Users that get a kubeconfig inside the namespaces. The node agent plays every kubelet, a provisioner and the
# service proxy at once, which no built-in role covers, and it is part of the test bed: it may do everything.
CLIENTS = (
    Identity(file="admin", user="kubernetes-admin", group="system:masters"),
    Identity(file="kube-controller-manager", user="system:kube-controller-manager"),
    Identity(file="kube-scheduler", user="system:kube-scheduler"),
    Identity(file="prometheus", user="cra:prometheus"),
    Identity(file="node-agent", user="cra:node-agent", group="system:masters"),
)


class Authority:
    """A certificate authority whose key stays in memory."""

    def __init__(self, name: str) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        usage = x509.KeyUsage(
            digital_signature=True,
            key_cert_sign=True,
            crl_sign=True,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            encipher_only=False,
            decipher_only=False,
        )
        self.certificate = (
            _builder(self._name, self._name, self._key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage, critical=True)
            .sign(self._key, hashes.SHA256())
        )

    @property
    def pem(self) -> bytes:
        """The authority's certificate."""
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    def issue(self, identity: Identity) -> tuple[bytes, bytes]:
        """Sign a new key.

        Returns:
            The certificate and its private key, both as PEM.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        attributes = [x509.NameAttribute(NameOID.COMMON_NAME, identity.user)]
        if identity.group:
            attributes.insert(0, x509.NameAttribute(NameOID.ORGANIZATION_NAME, identity.group))
        usages = [ExtendedKeyUsageOID.CLIENT_AUTH]
        builder = _builder(x509.Name(attributes), self._name, key.public_key())
        if identity.hosts:
            usages.append(ExtendedKeyUsageOID.SERVER_AUTH)
            names = x509.SubjectAlternativeName([_general_name(host) for host in identity.hosts])
            builder = builder.add_extension(names, critical=False)
        certificate = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False).sign(
            self._key, hashes.SHA256()
        )
        return certificate.public_bytes(serialization.Encoding.PEM), _private_pem(key)


def write_pki(layout: Layout, node_ips: Sequence[str], api_url: str) -> None:
    """Make all certificates, keys and kubeconfigs of a cluster.

    Args:
        layout: Where they go; the directories exist.
        node_ips: Addresses that the kubelet API serves on.
        api_url: Address of the API server as seen from the host.
    """
    authority, store = Authority("cra-ca"), Authority("cra-etcd-ca")
    _write(layout.pki / "ca.crt", authority.pem)
    _write(layout.pki / "etcd-ca.crt", store.pem)
    for identity in (
        Identity(file="apiserver", user="kube-apiserver", hosts=APISERVER_HOSTS),
        Identity(file="apiserver-kubelet", user="cra:apiserver-kubelet"),
        Identity(file="kubelet", user="system:node", hosts=tuple(node_ips)),
        Identity(file="loopback", user="loopback", hosts=("localhost", "127.0.0.1")),
    ):
        _write_pair(layout.pki, identity.file, *authority.issue(identity))
    for identity in (
        Identity(file="etcd", user="etcd", hosts=("localhost", "127.0.0.1")),
        Identity(file="etcd-client", user="kube-apiserver"),
    ):
        _write_pair(layout.pki, identity.file, *store.issue(identity))

    signer = ec.generate_private_key(ec.SECP256R1())
    _write(layout.pki / "service-account.key", _private_pem(signer))
    public = signer.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    _write(layout.pki / "service-account.pub", public)

    inside = f"https://127.0.0.1:{APISERVER_PORT}"
    for identity in CLIENTS:
        certificate, key = authority.issue(identity)
        _write_pair(layout.pki, identity.file, certificate, key)
        text = kubeconfig(inside, authority.pem, identity.user, certificate, key)
        _write(layout.internal_kubeconfig(identity.file), text.encode())
        if identity.file == "admin":
            text = kubeconfig(api_url, authority.pem, identity.user, certificate, key)
            _write(layout.kubeconfig, text.encode())


def kubeconfig(server: str, ca: bytes, user: str, certificate: bytes, key: bytes) -> str:
    """A kubeconfig with everything inline, as YAML."""
    return yaml.safe_dump(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [
                {"name": "cra", "cluster": {"server": server, "certificate-authority-data": _b64(ca)}}
            ],
            "users": [
                {
                    "name": user,
                    "user": {"client-certificate-data": _b64(certificate), "client-key-data": _b64(key)},
                }
            ],
            "contexts": [{"name": "cra", "context": {"cluster": "cra", "user": user}}],
            "current-context": "cra",
        }
    )


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey
) -> x509.CertificateBuilder:
    now = dt.datetime.now(dt.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCK_SKEW)
        .not_valid_after(now + _LIFETIME)
    )


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    )


def _write_pair(folder: Path, name: str, certificate: bytes, key: bytes) -> None:
    _write(folder / f"{name}.crt", certificate)
    _write(folder / f"{name}.key", key)


def _write(path: Path, content: bytes) -> None:
    path.touch(mode=0o600)
    path.write_bytes(content)


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()
