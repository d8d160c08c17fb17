"""Which program is taken: by place, and by the version that it says it has."""

import subprocess
import sys
from pathlib import Path

import pytest

from e2e.local import toolchain
from e2e.local.errors import ToolMissingError
from e2e.local.layout import REPOSITORY
from e2e.local.toolchain import TOOLS, ensure_tools, parse_version, tools_directory

SAID = {
    "etcd": "etcd Version: 3.6.8\nGit SHA: 12af\nGo Version: go1.26.8\n",
    "kube-apiserver": "Kubernetes v1.36.3\n",
    "kube-controller-manager": "Kubernetes v1.36.3\n",
    "kube-scheduler": "Kubernetes v1.36.3\n",
    "kubectl": "Client Version: v1.36.3\nKustomize Version: v5.8.1\n",
    "helm": "v3.19.0+g3d8990f\n",
    "prometheus": "prometheus, version 3.15.0 (branch: , revision: unknown)\n",
}


def program(folder: Path, name: str, says: str, code: int = 0) -> Path:
    """An executable that prints `says`."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\ncat <<'END'\n{says}END\nexit {code}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def places(cache_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """The three places where programs are looked for; PATH and the cache hold them all."""
    found = {"assets": tmp_path / "assets", "cache": tools_directory(), "path": tmp_path / "path"}
    for name, said in SAID.items():
        program(found["path"], name, said)
        program(found["cache"], name, "")
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(found["assets"]))
    monkeypatch.setenv("PATH", f"{found['path']}:/usr/bin:/bin")
    return found


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("etcd Version: 3.6.8", (3, 6)),
        ("Kubernetes v1.36.3", (1, 36)),
        ("v3.22", (3, 22)),
        ("v3.19.0+g3d8990f", (3, 19)),
        ("prometheus, version 2.42.0+ds (branch: debian/sid)", (2, 42)),
        ("prometheus, version  (branch: , revision: unknown)\n  go version:       go1.26.8", None),
        ("", None),
    ],
)
def test_the_version_is_read_from_what_programs_print(text: str, version: tuple[int, int] | None) -> None:
    assert parse_version(text) == version


@pytest.mark.parametrize(
    ("tool", "version", "fits"),
    [
        ("etcd", (3, 5), False),
        ("etcd", (3, 7), True),
        ("kube-apiserver", (1, 35), False),
        ("kube-apiserver", (1, 37), True),
        ("kube-scheduler", (1, 37), False),
        ("helm", (4, 0), False),
        ("prometheus", (2, 55), False),
        ("prometheus", (3, 0), True),
    ],
)
def test_only_versions_that_work_together_fit(tool: str, version: tuple[int, int], fits: bool) -> None:
    (wanted,) = (candidate for candidate in TOOLS if candidate.name == tool)
    assert wanted.fits(version) is fits


def test_the_cache_is_preferred_to_path(places: dict[str, Path]) -> None:
    assert {path.parent for path in ensure_tools().values()} == {places["cache"]}


def test_kubebuilder_assets_is_preferred_to_the_cache(places: dict[str, Path]) -> None:
    etcd = program(places["assets"], "etcd", SAID["etcd"])
    assert ensure_tools()["etcd"] == etcd


def test_a_program_that_is_too_old_is_passed_over(places: dict[str, Path]) -> None:
    program(places["assets"], "etcd", "etcd Version: 3.5.16\n")
    assert ensure_tools()["etcd"].parent == places["cache"]


def test_a_program_that_fails_is_passed_over(places: dict[str, Path]) -> None:
    program(places["assets"], "etcd", SAID["etcd"], code=1)
    assert ensure_tools()["etcd"].parent == places["cache"]


def test_path_serves_where_the_cache_is_empty(places: dict[str, Path]) -> None:
    for path in places["cache"].iterdir():
        path.unlink()
    assert {path.parent for path in ensure_tools().values()} == {places["path"]}


def test_a_missing_program_that_cannot_be_built_is_named(places: dict[str, Path]) -> None:
    (places["cache"] / "helm").unlink()
    program(places["path"], "helm", "v4.0.1\n")
    # This Go builds without a word and without a result, as a broken installation does.
    program(places["path"], "go", "go version go1.99.0 linux/amd64\n")
    with pytest.raises(ToolMissingError, match="helm cannot be built"):
        ensure_tools()


def test_the_cache_is_keyed_by_everything_that_goes_into_a_build(monkeypatch: pytest.MonkeyPatch) -> None:
    key = toolchain._key(b"mod", b"sum")
    assert toolchain._key(b"mod", b"sum") == key
    assert toolchain._key(b"mod2", b"sum") != key
    assert toolchain._key(b"mod", b"sum2") != key
    monkeypatch.setattr("platform.machine", lambda: "another")
    assert toolchain._key(b"mod", b"sum") != key


def test_building_needs_no_installed_package() -> None:
    """`build` runs while pip is still installing what clusters need."""
    # -S leaves site-packages out.
    argv = [sys.executable, "-S", "-c", "import e2e.local.__main__"]
    done = subprocess.run(argv, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
