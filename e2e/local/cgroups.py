"""Removal of what the node agent makes outside every namespace: control groups.

The agent removes its groups itself when it is asked to end. This is for the end that nobody was asked about.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from e2e.local.layout import Layout
from e2e.local.node.config import cluster_id


def remove_cgroups(layout: Layout) -> None:
    """Remove the groups of a cluster whose processes have all ended; says on stderr what resists."""
    name = cluster_id(layout.node)
    for mount in _cgroup_mounts(Path("/proc/self/mounts").read_text()):
        for folder, children, _ in os.walk(mount):
            if name in children:
                children.remove(name)
                _remove_tree(Path(folder) / name)


def _cgroup_mounts(mounts: str) -> list[str]:
    rows = (line.split() for line in mounts.splitlines())
    return [row[1] for row in rows if row[2] in ("cgroup", "cgroup2")]


def _remove_tree(group: Path) -> None:
    for folder, _, _ in os.walk(group, topdown=False):
        try:
            # Groups hold no files that could be removed, only groups.
            Path(folder).rmdir()
        except OSError as error:
            print(f"control group {folder} stays: {error.strerror}", file=sys.stderr)
