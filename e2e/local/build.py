"""Building the cluster's programs from Go modules, and showing how it goes.

One program after the other, as the Go tool fills all cores with one already, and those that follow find most
of their packages compiled. Each appears under its name only when it is whole, so an interrupted build goes
on where it was. Two processes never build at once.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import selectors
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from e2e.local.errors import ToolMissingError
from e2e.local.golang import Go, find_go

if TYPE_CHECKING:
    from e2e.local.toolchain import Tool

_REFERENCE_CORES = 2
_REDRAW_SECONDS = 1.0
_SAID_LINES = 12


def build(tools: Sequence[Tool], module: Path, target: Path, out: TextIO) -> Mapping[str, Path]:
    """Build programs.

    Args:
        tools: What to build, in this order.
        module: Directory of the Go module that pins them.
        target: Directory for the executables.
        out: Where progress is shown; one line that is drawn anew where it is a terminal.

    Returns:
        Path of each program by name.

    Raises:
        ToolMissingError: There is no Go toolchain, or one does not build.
    """
    target.mkdir(parents=True, exist_ok=True)
    with _lock(target.parent / "lock", out):
        missing = [tool for tool in tools if not (target / tool.name).exists()]
        if missing:
            go = find_go(module, out)
            for number, tool in enumerate(missing, 1):
                _build_one(tool, go, module, target, Display(out, missing, number))
    return {tool.name: target / tool.name for tool in tools}


class Display:
    """What is said while one of several programs is being built."""

    def __init__(self, out: TextIO, tools: Sequence[Tool], number: int) -> None:
        self._out = out
        self._terminal = out.isatty()
        self._label = f"[{number}/{len(tools)}] {tools[number - 1].name}"
        self._expected = expected_seconds(tools[number - 1 :][:1])
        self._rest = expected_seconds(tools[number:])
        self._began = time.monotonic()
        if not self._terminal:
            about = duration(self._expected)
            self._line(
                f"{self._label}: building, about {about}; {duration(self._rest)} for those that follow"
            )

    def update(self, packages: int, doing: str) -> None:
        """Show how far it is; only a terminal shows it."""
        if self._terminal:
            elapsed = time.monotonic() - self._began
            left = max(self._expected - elapsed, 0) + self._rest
            text = f"{self._label}: {duration(elapsed)} of about {duration(self._expected)}, "
            text += f"{packages} packages, {doing}; about {duration(left)} left in all"
            width = os.get_terminal_size(self._out.fileno()).columns
            self._out.write(f"\r\x1b[K{text[: max(width - 1, 20)]}")
            self._out.flush()

    def done(self) -> None:
        """Say that the program is there, and after how long."""
        self._line(f"{self._label}: built in {duration(time.monotonic() - self._began)}")

    def _line(self, text: str) -> None:
        self._out.write(("\r\x1b[K" if self._terminal else "") + text + "\n")
        self._out.flush()


def expected_seconds(tools: Sequence[Tool]) -> float:
    """How long building takes on this machine, from what it took on the reference."""
    cores = len(os.sched_getaffinity(0))
    return sum(tool.seconds for tool in tools) * _REFERENCE_CORES / cores


def duration(seconds: float) -> str:
    """Seconds in words: ``45 s``, ``3 min 20 s``."""
    whole = round(seconds)
    return f"{whole} s" if whole < 60 else f"{whole // 60} min {whole % 60:02} s"


def _build_one(tool: Tool, go: Go, module: Path, target: Path, display: Display) -> None:
    scratch = target / f".{tool.name}.{os.getpid()}"
    # NB: -v names each package as it is compiled; it has no part in what the build cache is keyed by.
    argv = [str(go.program), "build", "-v", *tool.flags, "-o", str(scratch), tool.package]
    env = {**os.environ, **go.env, "CGO_ENABLED": "0"}
    try:
        with (
            (target.parent / f"{tool.name}.log").open("w") as log,
            subprocess.Popen(
                argv,
                cwd=module,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            ) as process,
        ):
            packages, doing, said = 0, "starting", list[str]()
            for lines in _lines_or_ticks(process):
                for line in lines:
                    log.write(line + "\n")
                    if line.startswith("go: downloading "):
                        doing = f"downloading {line.split()[2]}"
                    elif " " in line or ":" in line:
                        said = [*said, line][-_SAID_LINES:]
                    else:
                        packages, doing = packages + 1, f"compiling {line}"
                display.update(packages, doing)
        if process.returncode != 0 or not scratch.exists():
            raise ToolMissingError(_failure(tool, said, Path(log.name)))
        scratch.rename(target / tool.name)
    finally:
        scratch.unlink(missing_ok=True)
    display.done()


def _lines_or_ticks(process: subprocess.Popen[bytes]) -> Iterator[Sequence[str]]:
    """Lines of a process's output as they come, and an empty list about once a second in between."""
    assert process.stdout is not None
    pending = b""
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while True:
            if not selector.select(_REDRAW_SECONDS):
                yield []
                continue
            chunk = os.read(process.stdout.fileno(), 1 << 16)
            if not chunk:
                return
            *lines, pending = (pending + chunk).split(b"\n")
            yield [line.decode(errors="replace") for line in lines]


def _failure(tool: Tool, said: Sequence[str], log: Path) -> str:
    words = "\n".join(f"  {line}" for line in said) or "  (nothing)"
    return (
        f"{tool.name} cannot be built; the Go tool says:\n{words}\nAll of it is in {log}. Modules come "
        f"through the proxy that `go env GOPROXY` names, so that must be reachable. Or put {tool.name} "
        f"{'.'.join(map(str, tool.minimum))} or newer on PATH or into KUBEBUILDER_ASSETS."
    )


@contextlib.contextmanager
def _lock(path: Path, out: TextIO) -> Iterator[None]:
    """Hold a file's lock; says so when that means to wait."""
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("another process is building the cluster's programs; waiting for it", file=out, flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
