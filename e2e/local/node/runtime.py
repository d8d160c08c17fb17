"""What all pods of the agent share: clients, managers, settings."""

import dataclasses
from collections.abc import Sequence

import aiohttp

from .api import Api
from .config import AgentConfig
from .endpoints import Endpoints
from .events import Recorder
from .network import Network
from .quota import Quota
from .sandbox import Spawner


@dataclasses.dataclass(frozen=True, kw_only=True)
class Runtime:
    """The agent's means."""

    api: Api
    config: AgentConfig
    endpoints: Endpoints
    events: Recorder
    http: aiohttp.ClientSession
    """For probes."""
    keep: Sequence[str]
    """Host paths that every container sees, as the images need them."""
    network: Network
    quota: Quota
    spawner: Spawner
