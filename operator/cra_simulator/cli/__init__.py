"""The command `cra-sim`: one file for each of its commands."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from cra_simulator.cli import compare, convert, plot, replay, train
from cra_simulator.errors import DataError, SimulationError

_COMMANDS = (compare, replay, plot, convert, train)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line; returns the exit status, 2 where a file or an argument cannot be used."""
    parser = argparse.ArgumentParser(
        prog="cra-sim", description="GPU schedulers and learned policies on a simulated cluster."
    )
    commands = parser.add_subparsers(required=True, metavar="command")
    for command in _COMMANDS:
        command.add_to(commands)
    arguments = parser.parse_args(argv)
    try:
        arguments.run(arguments)
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read along has seen enough. What is still buffered must not fail at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (DataError, SimulationError, OSError) as error:
        print(f"cra-sim: {error}", file=sys.stderr)
        return 2
    return 0
