"""Entry point: `python -m cra_operator`, configured by the environment alone."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import sys

import kopf

from cra_operator.app import LeaseLostError, Operator
from cra_operator.config import Config, ConfigError, load


def main() -> int:
    """Run the operator; return the process's exit code."""
    try:
        config = load(os.environ)
    except ConfigError as error:
        print(f"cra-operator: {error}", file=sys.stderr)
        return 2
    logging.basicConfig(
        level=config.log_level, format="%(asctime)s %(levelname).1s %(name)s: %(message)s", stream=sys.stderr
    )
    logging.getLogger("kopf").setLevel(max(logging.WARNING, logging.getLevelName(config.log_level)))
    logging.getLogger("kopf._core.reactor.running").setLevel(logging.ERROR)  # "OS signals are ignored": by us
    # What was loaded stays for good: to look through it again and again would triple the longest pauses.
    gc.collect()
    gc.freeze()
    code = 0
    try:
        asyncio.run(_run(config))
    except* LeaseLostError as lost:
        logging.error("%s: ending", lost.exceptions[0])
        code = 1
    except* kopf.LoginError as refused:
        print(f"cra-operator: {refused.exceptions[0]}", file=sys.stderr)
        code = 2
    return code


async def _run(config: Config) -> None:
    await Operator(config).run()


if __name__ == "__main__":
    sys.exit(main())
