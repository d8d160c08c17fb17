"""Helm without a cluster, and finding things in what it renders."""

import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

CHART = Path(__file__).resolve().parents[2] / "charts" / "cra-operator"
KUBERNETES = "1.36.0"

Manifest = dict[str, Any]


class HelmError(Exception):
    """Helm failed; the message is what it said."""


@dataclass(frozen=True)
class Helm:
    """Helm without a cluster."""

    program: Path

    def render(self, *arguments: str, release: str = "cra-operator", namespace: str = "cra-system") -> str:
        """Text of all manifests; arguments as for `helm template`."""
        place = ("--namespace", namespace, "--kube-version", KUBERNETES)
        return self.run("template", release, str(CHART), *place, *arguments)

    def objects(self, *arguments: str, release: str = "cra-operator") -> list[Manifest]:
        """All manifests as Helm would send them."""
        return [
            document for document in yaml.safe_load_all(self.render(*arguments, release=release)) if document
        ]

    def run(self, *arguments: str) -> str:
        """Run helm; returns its output.

        Raises:
            HelmError: It fails.
        """
        done = subprocess.run([self.program, *arguments], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise HelmError(done.stderr or done.stdout)
        return done.stdout


def of_kind(objects: Iterable[Manifest], kind: str) -> list[Manifest]:
    return [manifest for manifest in objects if manifest["kind"] == kind]


def deployment(objects: Iterable[Manifest]) -> Manifest:
    (found,) = of_kind(objects, "Deployment")
    return found


def container(objects: Iterable[Manifest]) -> Manifest:
    (found,) = deployment(objects)["spec"]["template"]["spec"]["containers"]
    return dict(found)
