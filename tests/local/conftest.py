"""State of its own for each test; the programs are those of the user's cache all the same."""

from pathlib import Path

import pytest

from e2e.local.toolchain import ensure_tools


@pytest.fixture
def cache_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, so that no test sees another's clusters, nor the user's."""
    home = tmp_path / "cache"
    home.mkdir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(home))
    return home / "cra"


@pytest.fixture
def built_tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with all tools, named by KUBEBUILDER_ASSETS; to be asked for before `cache_home`."""
    folder = tmp_path / "tools"
    folder.mkdir()
    for name, place in ensure_tools().items():
        (folder / name).symlink_to(place)
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(folder))
    return folder
