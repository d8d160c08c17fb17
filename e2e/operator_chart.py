"""Install the operator's chart into a cluster by Helm, as a user would."""

from pathlib import Path
from typing import Protocol

REPOSITORY = Path(__file__).resolve().parent.parent
CRD = REPOSITORY / "crds" / "cra.dev_cratrainingjobs.yaml"
CHART = REPOSITORY / "charts" / "cra-operator"
NAMESPACE = "cra-system"
PROMETHEUS_URL = "http://prometheus.monitoring.svc:9090"


class Target(Protocol):
    """A cluster reached by Helm and kubectl; both raise when the command fails."""

    def kubectl(self, *arguments: str) -> str:
        """Run kubectl and return what it printed."""

    def helm(self, *arguments: str) -> str:
        """Run helm and return what it printed."""


def install_crd(target: Target) -> None:
    """Apply the CRD alone and wait until the API server takes jobs."""
    target.kubectl("apply", "--server-side", "-f", str(CRD))
    # NB: `kubectl wait --for=condition` fails on an object that has no conditions at all yet.
    for met in ("jsonpath={.status.acceptedNames.kind}=CRATrainingJob", "condition=Established"):
        target.kubectl("wait", f"--for={met}", "crd/cratrainingjobs.cra.dev", "--timeout=30s")


def install(target: Target, *settings: str) -> None:
    """Install or upgrade the operator and wait until it is available.

    Args:
        target: where to install.
        settings: further Helm values as `key=value`.
    """
    # Sizes stay put unless a job asks for a policy: most scenarios watch something else.
    values = {
        "prometheus.url": PROMETHEUS_URL,
        "observe.intervalSeconds": "2",
        "controller.policy": "static",
        "controller.warmUpSeconds": "2",
    }
    given = [*(f"{name}={value}" for name, value in values.items()), *settings]
    options = [part for value in given for part in ("--set", value)]
    target.helm(
        "upgrade", "--install", "cra-operator", str(CHART), "--namespace", NAMESPACE, "--create-namespace",
        "--wait", "--timeout", "120s", *options,
    )  # fmt: skip
