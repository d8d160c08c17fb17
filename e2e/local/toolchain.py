"""Which programs a cluster runs, and where they come from."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from e2e.local.errors import ToolMissingError

TOOLS = (
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kubectl",
    "helm",
    "prometheus",
)


def ensure_tools() -> Mapping[str, Path]:
    """Path of each tool, from ``KUBEBUILDER_ASSETS`` or ``PATH``.

    Raises:
        ToolMissingError: One is in neither.
    """
    search = os.pathsep.join((os.environ.get("KUBEBUILDER_ASSETS", ""), os.environ.get("PATH", "")))
    found = {tool: shutil.which(tool, path=search) for tool in TOOLS}
    if missing := [tool for tool, path in found.items() if path is None]:
        raise ToolMissingError(f"missing: {', '.join(missing)}; put them into KUBEBUILDER_ASSETS or on PATH")
    return {tool: Path(path) for tool, path in found.items() if path is not None}
