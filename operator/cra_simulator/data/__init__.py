"""Workloads and profiles that come with the simulator; whose they are is in NOTICE.md."""

import json
from importlib.resources import as_file, files
from pathlib import Path

LOADS = (0.5, 1.0, 1.5, 2.0)
"""Loads of the shipped workloads, relative to 160 jobs in 8 hours."""


def path(*parts: str) -> Path:
    """A file or folder of the shipped data."""
    with as_file(files(__package__).joinpath(*parts)) as found:
        return found


def workloads(load: float) -> tuple[Path, ...]:
    """The shipped workloads of a load, which is one of `LOADS`; 1.0 is 160 jobs in 8 hours for 64 T4.

    They are for comparison: nothing that is learned or tuned may see them.
    """
    return _files(path("pollux", "workloads", f"{load:.1f}"))


def realistic_workloads() -> tuple[Path, ...]:
    """Workloads at 1.0 whose jobs ask for what users ask for, where those of `workloads` were tuned."""
    return _files(path("pollux", "workloads", "realistic"))


def training_workloads(load: float) -> tuple[Path, ...]:
    """Workloads to learn from: 40 at 1.0, 10 each at 0.5 and 2.0, none at other loads.

    They were made as those of `workloads` were, from other seeds.
    """
    return _files(path("pollux", "training"), f"{load:.1f}-*.csv")


def shipped_means(scheduler: str, load: float) -> dict[str, float]:
    """Mean job completion time in seconds by workload, as the authors of Pollux got it in their simulator.

    Args:
        scheduler: `pollux`, `tiresias` or `optimus`.
        load: One of `LOADS`.
    """
    found = json.loads(path("pollux", "shipped_means.json").read_text())[scheduler][f"{load:.1f}"]
    return {name: float(seconds) for name, seconds in found.items()}


def _files(folder: Path, pattern: str = "*.csv") -> tuple[Path, ...]:
    return tuple(sorted(folder.glob(pattern)))


def rate_tables() -> Path:
    """Rates of the six applications of the shipped workloads on nodes of four T4, at the best batch size."""
    return path("pollux", "rate_tables.json.gz")


def profiles() -> Path:
    """Measured profiles of the same applications, a folder for each."""
    return path("pollux", "profiles")
