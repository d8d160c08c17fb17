"""`python -m e2e.local.node --config FILE`: plays the nodes until SIGTERM."""

import argparse
import asyncio
import logging
import signal
from pathlib import Path

from .agent import run_agent
from .config import AgentConfig
from .sandbox import make_mounts_private


async def _main(config: AgentConfig) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await run_agent(config, stop)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m e2e.local.node", description="Plays the nodes of a cluster."
    )
    parser.add_argument("--config", type=Path, required=True, help="JSON file written by the launcher")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    configuration = AgentConfig.load(parser.parse_args().config)
    # Before anything starts a thread: what is mounted for pods must not be seen outside.
    make_mounts_private()
    asyncio.run(_main(configuration))
