"""Run a training script in this process and answer for its end: ``python -m cra_trainer.script [-m module |
script.py] args…``.

It works for scripts without a session too: the endpoint, SIGTERM and the termination message are there before
the script's first line.
"""

from __future__ import annotations

import runpy
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from cra_trainer import process, termination


def main(arguments: Sequence[str]) -> int:
    """Run the script to its end; returns the exit code."""
    return guard(lambda: _run(arguments))


def guard(run: Callable[[], None]) -> int:
    """Call a training to its end as a process of a job; returns the exit code."""
    this = process.start()
    try:
        run()
    except BaseException as error:
        code = this.fail(error)
        if code not in (termination.SUCCEEDED, termination.LEFT):
            if not isinstance(error, SystemExit):
                traceback.print_exception(error)
            elif isinstance(error.code, str):
                print(error.code, file=sys.stderr)
        if code != termination.SUCCEEDED:
            if code in (termination.PEER_LOST, termination.LEFT):
                process.leave(code)
            return code
    if this.env.rank == 0:
        this.say({"outcome": "succeeded", **this.progress()})
    return termination.SUCCEEDED


def _run(arguments: Sequence[str]) -> None:
    if arguments[0] == "-m":
        sys.argv = list(arguments[1:])
        sys.path.insert(0, str(Path.cwd()))
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = list(arguments)
        sys.path.insert(0, str(Path(arguments[0]).resolve().parent))
        runpy.run_path(arguments[0], run_name="__main__")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
