"""The files that a kubelet writes for every pod: hosts, host name and resolver configuration."""

from .api import Object

_HOSTS = """# Kubernetes-managed hosts file.
127.0.0.1\tlocalhost
::1\tlocalhost ip6-localhost ip6-loopback
"""


def hostname(pod: Object) -> str:
    """The name that the pod's processes see."""
    return str(pod["spec"].get("hostname") or pod["metadata"]["name"])[:63].rstrip("-.")


def hosts(pod: Object, address: str, domain: str) -> str:
    """`/etc/hosts`: the pod finds itself by its host name, before any DNS."""
    name, spec = hostname(pod), pod["spec"]
    own = [name]
    if spec.get("subdomain"):
        own.insert(0, f"{name}.{spec['subdomain']}.{pod['metadata']['namespace']}.svc.{domain}")
    lines = ["\t".join([address, *own])]
    lines += ["\t".join([alias["ip"], *alias["hostnames"]]) for alias in spec.get("hostAliases", [])]
    return _HOSTS + "\n".join(lines) + "\n"


def resolv_conf(pod: Object, nameserver: str, domain: str) -> str:
    """`/etc/resolv.conf` for the policy `ClusterFirst`, or of `dnsConfig` alone for `None`."""
    extra = pod["spec"].get("dnsConfig", {})
    servers, searches, options = [nameserver], [f"{pod['metadata']['namespace']}.svc.{domain}"], ["ndots:5"]
    searches += [f"svc.{domain}", domain]
    if pod["spec"].get("dnsPolicy") == "None":
        servers, searches, options = [], [], []
    servers += extra.get("nameservers", [])
    searches += extra.get("searches", [])
    options += [":".join(filter(None, (o["name"], o.get("value")))) for o in extra.get("options", [])]
    lines = [f"nameserver {server}" for server in servers]
    lines += [
        f"{word} {' '.join(values)}"
        for word, values in (("search", searches), ("options", options))
        if values
    ]
    return "\n".join(lines) + "\n"
