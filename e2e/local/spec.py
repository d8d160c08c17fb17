"""What init needs to know: written by the launcher, read inside the namespaces."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class ClusterSpec:
    """The running part of a cluster's description.

    Attributes:
        name: The cluster's name.
        root: Its state directory.
        tools: Path of each program, by name.
        nodes: Names of the nodes that have to become ready.
    """

    name: str
    root: Path
    tools: Mapping[str, Path]
    nodes: Sequence[str]

    def dump(self) -> str:
        """The specification as JSON."""
        return json.dumps(dataclasses.asdict(self), default=str, indent=1)

    @classmethod
    def load(cls, text: str) -> ClusterSpec:
        """The reverse of `dump`."""
        raw: dict[str, Any] = json.loads(text)
        return cls(
            name=raw["name"],
            root=Path(raw["root"]),
            tools={name: Path(path) for name, path in raw["tools"].items()},
            nodes=tuple(raw["nodes"]),
        )
