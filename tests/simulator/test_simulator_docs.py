"""What docs/simulator.md tells people to type does what it says."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from cra_simulator.cli import main

BLOCKS = re.findall(
    r"```(\w*)\n(.*?)```", Path(__file__).parents[2].joinpath("docs", "simulator.md").read_text(), re.DOTALL
)


def test_the_python_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    exec("".join(text for language, text in BLOCKS if language == "python"), {})
    mean, p99, makespan, restarts = map(float, capsys.readouterr().out.split())
    assert mean < p99 < makespan
    assert restarts > 0


def test_a_workload_of_ones_own_is_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    text = next(text for _, text in BLOCKS if "jobs.csv <<" in text)
    found = re.fullmatch(r"cat > jobs.csv <<'END'\n(.*)END\ncra-sim (.*)\n", text, re.DOTALL)
    assert found is not None
    Path("jobs.csv").write_text(found[1])
    assert main(shlex.split(found[2])) == 0
    assert "3 jobs" in capsys.readouterr().out
