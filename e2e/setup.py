"""Make this checkout ready to run: Python packages into `.venv`, the control plane's programs into the cache.

Both are long on a bare machine (packages a few minutes, programs about ten on two cores), so they go side by
side, each only when something is missing, and each says how far it is. Standard library only: nothing is
installed yet when this runs.
"""

import hashlib
import subprocess
import sys
import threading
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
CONSTRAINTS = REPOSITORY / "constraints.txt"
REPORT_EVERY_SECONDS = 15.0


def install_packages(venv: Path) -> str:
    """Create the virtual environment and install the pinned packages into it; a no-op when it is up to date.

    Returns:
        What was done, in words.

    Raises:
        SetupError: when the environment cannot be made or pip fails; carries pip's last lines.
    """
    inputs = (REPOSITORY / "pyproject.toml").read_bytes() + CONSTRAINTS.read_bytes() + sys.version.encode()
    wanted = hashlib.sha256(inputs).hexdigest()
    stamp = venv / ".setup-stamp"
    if stamp.exists() and stamp.read_text() == wanted:
        return "up to date"
    if not (venv / "bin" / "python").exists():
        _checked(
            [sys.executable, "-m", "venv", str(venv)],
            hint="install Python's venv module (Debian: python3-venv)",
        )
    _checked(
        [str(venv / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check",
         "--constraint", str(CONSTRAINTS), "--editable", f"{REPOSITORY}[dev]"],
        hint="is the package registry reachable from here?",
    )  # fmt: skip
    stamp.write_text(wanted)
    return "installed"


class SetupError(Exception):
    """A step of the set-up failed; the message says which, its last output and what to do."""


def _checked(command: list[str], *, hint: str) -> None:
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, stdin=subprocess.DEVNULL
    )
    if done.returncode != 0:
        tail = "\n".join(done.stdout.splitlines()[-12:])
        raise SetupError(f"{' '.join(command[:4])} … failed ({hint}):\n{tail}")


class _Packages(threading.Thread):
    """The package installation, beside the build of the programs; says from time to time that it goes on."""

    def __init__(self, venv: Path) -> None:
        super().__init__(daemon=True)
        self.venv = venv
        self.failure: SetupError | None = None

    def run(self) -> None:
        started = time.monotonic()
        done = threading.Event()
        threading.Thread(target=self._report, args=(started, done), daemon=True).start()
        try:
            outcome = install_packages(self.venv)
            if outcome != "up to date":
                print(f"[{time.monotonic() - started:4.0f} s] Python packages: {outcome}", flush=True)
        except SetupError as error:
            self.failure = error
        finally:
            done.set()

    @staticmethod
    def _report(started: float, done: threading.Event) -> None:
        while not done.wait(REPORT_EVERY_SECONDS):
            elapsed = time.monotonic() - started
            print(
                f"[{elapsed:4.0f} s] Python packages: installing (torch is the largest; 2 to 4 min)",
                flush=True,
            )


def main() -> int:
    """Run both halves; returns the exit status."""
    venv = Path(sys.argv[1]).absolute()
    packages = _Packages(venv)
    packages.start()
    # Its progress goes to standard error; where each program is, is not of interest here.
    build = subprocess.run(
        [sys.executable, "-m", "e2e.local", "build"], cwd=REPOSITORY, stdout=subprocess.DEVNULL
    )
    packages.join()
    if packages.failure is not None:
        print(f"set-up: {packages.failure}", file=sys.stderr)
        return 1
    return build.returncode


if __name__ == "__main__":
    sys.exit(main())
