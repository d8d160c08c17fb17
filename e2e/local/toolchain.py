"""Which programs a cluster runs, and where they come from.

A program in ``KUBEBUILDER_ASSETS`` is taken first, as somebody said so; then one that was built before; then
one on ``PATH``. Found programs are asked for their version and passed over when it does not fit. What is
left is built from the Go modules that `tools/go.mod` pins, into a directory of the user's cache that is
named after everything that goes into it.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from e2e.local.layout import cache_home

MODULE = Path(__file__).resolve().parent / "tools"

Version = tuple[int, int]

_KUBERNETES = "1.36.3"
_PROMETHEUS = "3.15.0"
_STAMP = (
    f"-X k8s.io/component-base/version.gitVersion=v{_KUBERNETES} "
    "-X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=36"
)


@dataclass(frozen=True, kw_only=True)
class Tool:
    """A program, the versions of it that fit, and how it is built.

    Attributes:
        name: Name of the executable.
        package: Go package of its main function.
        minimum: First version that fits.
        below: First version that does not fit any more.
        ask: Arguments that make it print its version.
        tags: Go build tags.
        stamp: Linker settings beside those that all tools share.
        seconds: How long building it took on two cores, right after those that stand before it.
    """

    name: str
    package: str
    minimum: Version
    below: Version
    ask: tuple[str, ...] = ("--version",)
    tags: str = ""
    stamp: str = ""
    seconds: int

    @property
    def flags(self) -> tuple[str, ...]:
        """Arguments of ``go build``."""
        ldflags = " ".join(filter(None, ("-s -w", _STAMP, self.stamp)))
        return ("-trimpath", *(("-tags", self.tags) if self.tags else ()), "-ldflags", ldflags)

    def fits(self, version: Version) -> bool:
        """Whether a version will do."""
        return self.minimum <= version < self.below


# Controller manager and scheduler must not be newer than the API server, which may come from elsewhere.
TOOLS = (
    Tool(name="etcd", package="go.etcd.io/etcd/server/v3", minimum=(3, 6), below=(4, 0), seconds=80),
    Tool(
        name="kube-apiserver",
        package="k8s.io/kubernetes/cmd/kube-apiserver",
        minimum=(1, 36),
        below=(1, 38),
        seconds=220,
    ),
    Tool(
        name="kube-controller-manager",
        package="k8s.io/kubernetes/cmd/kube-controller-manager",
        minimum=(1, 36),
        below=(1, 37),
        seconds=60,
    ),
    Tool(
        name="kube-scheduler",
        package="k8s.io/kubernetes/cmd/kube-scheduler",
        minimum=(1, 36),
        below=(1, 37),
        seconds=5,
    ),
    Tool(
        name="kubectl",
        package="k8s.io/kubernetes/cmd/kubectl",
        minimum=(1, 36),
        below=(1, 38),
        ask=("version", "--client"),
        seconds=25,
    ),
    Tool(
        name="helm",
        package="helm.sh/helm/v3/cmd/helm",
        minimum=(3, 14),
        below=(4, 0),
        ask=("version", "--short"),
        seconds=15,
    ),
    Tool(
        name="prometheus",
        package="github.com/prometheus/prometheus/cmd/prometheus",
        # Distributions ship 2.x, built without the Kubernetes discovery.
        minimum=(3, 0),
        below=(4, 0),
        tags="remove_all_sd,enable_kubernetes_sd",
        stamp=f"-X github.com/prometheus/common/version.Version={_PROMETHEUS}",
        seconds=80,
    ),
)


def ensure_tools() -> Mapping[str, Path]:
    """Path of each tool; builds those that are missing, which is shown on stderr.

    Raises:
        ToolMissingError: Some can neither be found nor built.
    """
    built = tools_directory()
    with ThreadPoolExecutor(len(TOOLS)) as pool:
        places = pool.map(lambda tool: _find(tool, built), TOOLS)
        found = {tool.name: place for tool, place in zip(TOOLS, places, strict=True) if place}
    if missing := [tool for tool in TOOLS if tool.name not in found]:
        from e2e.local.build import build

        found |= build(missing, MODULE, built, sys.stderr)
    return found


def tools_directory() -> Path:
    """Where the tools of this state of the modules, on this platform, are built."""
    return (
        cache_home()
        / "tools"
        / _key((MODULE / "go.mod").read_bytes(), (MODULE / "go.sum").read_bytes())
        / "bin"
    )


def _key(go_mod: bytes, go_sum: bytes) -> str:
    recipe = repr([(tool.name, tool.package, tool.flags) for tool in TOOLS])
    digest = hashlib.sha256()
    for part in (go_mod, go_sum, recipe.encode(), platform.system().encode(), platform.machine().encode()):
        digest.update(hashlib.sha256(part).digest())
    return digest.hexdigest()[:16]


def parse_version(text: str) -> Version | None:
    """Major and minor of the first version in what a program prints, None where there is none."""
    match = re.search(r"(?<![\w.])v?(\d+)\.(\d+)", text)
    return (int(match[1]), int(match[2])) if match else None


def _find(tool: Tool, built: Path) -> Path | None:
    for candidate, trusted in _candidates(tool, built):
        if trusted or _asked_version_fits(tool, candidate):
            return candidate
    return None


def _candidates(tool: Tool, built: Path) -> Iterator[tuple[Path, bool]]:
    """Executables in order of preference, and whether their version is known to fit."""
    for search, trusted in (
        (os.environ.get("KUBEBUILDER_ASSETS", ""), False),
        (str(built), True),
        (os.environ.get("PATH", ""), False),
    ):
        if search and (place := shutil.which(tool.name, path=search)):
            yield Path(place).absolute(), trusted


def _asked_version_fits(tool: Tool, candidate: Path) -> bool:
    try:
        asked = subprocess.run(
            [candidate, *tool.ask],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    version = parse_version(asked.stdout or asked.stderr)
    return asked.returncode == 0 and version is not None and tool.fits(version)
