"""The images without Docker: what they are built from builds, and what they promise stands in their files."""

import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
DOCKERFILES = {"operator": "operator/Dockerfile", "trainer": "trainer_image/Dockerfile"}


def instructions(file: str) -> list[tuple[str, str]]:
    """(instruction, arguments) with continued lines joined and comments left out."""
    text = re.sub(r"^#.*\n", "", (REPOSITORY / file).read_text(), flags=re.MULTILINE)
    lines = [line for line in text.replace("\\\n", " ").splitlines() if line.strip()]
    return [(line.split(maxsplit=1)[0], line.split(maxsplit=1)[1]) for line in lines]


def context() -> list[Path]:
    """What .dockerignore lets through: everything is excluded, then some of it is named."""
    rules = [
        line for line in (REPOSITORY / ".dockerignore").read_text().splitlines() if line and line[0] != "#"
    ]
    assert rules[0] == "*"
    assert rules[-1] == "**/__pycache__"
    assert all(rule.startswith("!") for rule in rules[1:-1])
    return [Path(rule[1:]) for rule in rules[1:-1]]


@pytest.mark.parametrize("file", DOCKERFILES.values())
def test_an_image_is_not_root_and_its_base_can_be_pinned(file: str) -> None:
    steps = instructions(file)
    bases = [arguments.split()[0] for step, arguments in steps if step == "FROM"]
    assert bases == ["${PYTHON_IMAGE}"] * 2
    assert steps[0] == ("ARG", "PYTHON_IMAGE=python:3.13-slim")
    last_stage = steps[max(i for i, (step, _) in enumerate(steps) if step == "FROM") :]
    assert [arguments for step, arguments in last_stage if step == "USER"] == ["65532:65532"]
    assert not [step for step, _ in last_stage if step == "RUN"]


@pytest.mark.parametrize(("extra", "file"), DOCKERFILES.items())
def test_an_image_copies_what_the_context_holds_and_installs_its_extra(extra: str, file: str) -> None:
    steps = instructions(file)
    copied = [Path(source) for step, arguments in steps if step == "COPY" and "--from" not in arguments
              for source in arguments.split()[:-1]]  # fmt: skip
    assert set(copied) == set(context())
    assert all((REPOSITORY / source).exists() for source in copied)
    (run,) = [arguments for step, arguments in steps if step == "RUN"]
    assert f'".[{extra}]"' in run
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert extra in project["optional-dependencies"]


def test_both_packages_build_from_the_context_alone(tmp_path: Path) -> None:
    source = tmp_path / "src"
    source.mkdir()
    for path in context():
        target = source / path
        target.parent.mkdir(parents=True, exist_ok=True)
        if (REPOSITORY / path).is_dir():
            shutil.copytree(REPOSITORY / path, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(REPOSITORY / path, target)
    build = [
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
        "-w",
        str(tmp_path),
    ]
    done = subprocess.run([sys.executable, *build, str(source)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    for package in ("operator/cra_operator", "trainer_image/cra_trainer"):
        root = (REPOSITORY / package).parent
        modules = {str(module.relative_to(root)) for module in (REPOSITORY / package).rglob("*.py")}
        assert modules <= names


def test_the_operators_entry_point_is_its_package() -> None:
    (entry,) = [
        arguments for step, arguments in instructions(DOCKERFILES["operator"]) if step == "ENTRYPOINT"
    ]
    assert entry == '["python", "-m", "cra_operator"]'
    assert (REPOSITORY / "operator" / "cra_operator" / "__main__.py").is_file()
