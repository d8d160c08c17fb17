"""How every benchmark reports: the machine and versions, a table, and as the last line one JSON object."""

import json
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path


def describe_machine(**versions: str) -> str:
    """Return one line that names the machine and the given versions."""
    model = next(
        (line.split(":", 1)[1].strip() for line in _cpu_information() if line.startswith("model name")),
        platform.machine(),
    )
    named = ", ".join(
        f"{name} {version}" for name, version in {"python": platform.python_version(), **versions}.items()
    )
    return f"{os.cpu_count()} x {model}; {platform.system()} {platform.release()}; {named}"


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows under a header, columns aligned."""
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    for row in [header, ["-" * width for width in widths], *rows]:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def print_figures(benchmark: str, figures: Mapping[str, float]) -> None:
    """Print the closing JSON line; a figure's name carries its unit."""
    rounded = {name: float(f"{value:.7g}") for name, value in figures.items()}
    print(json.dumps({"benchmark": benchmark, "figures": rounded}), flush=True)


def _cpu_information() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []
