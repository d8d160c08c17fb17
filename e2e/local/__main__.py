"""Embedded clusters from the command line: ``python -m e2e.local build | up | down | status``."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from e2e.local import state
from e2e.local.cluster import Cluster
from e2e.local.errors import LocalClusterError, NoSuchClusterError
from e2e.local.toolchain import ensure_tools

_DEFAULT_NAME = "cra"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m e2e.local",
        description="A real control plane with simulated GPU nodes, on this machine.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("build", help="build the programs that clusters need, and print where each is")
    for command, text in (
        ("up", "start a cluster that runs until it is taken down"),
        ("down", "end a cluster and everything in it; its logs stay"),
        ("status", "show a cluster's components; without a name, all clusters"),
    ):
        default = None if command == "status" else _DEFAULT_NAME
        one = commands.add_parser(command, help=text)
        one.add_argument("--name", default=default, help="the cluster's name (default: %(default)s)")
    options = parser.parse_args(arguments)
    try:
        match options.command:
            case "build":
                for name, path in ensure_tools().items():
                    print(f"{name:24} {path}")
            case "up":
                _up(options.name)
            case "down":
                _down(options.name)
            case "status":
                return _status([options.name] if options.name else [name for name, _ in state.clusters()])
    except LocalClusterError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; what was started is gone again", file=sys.stderr)
        return 130
    return 0


def _up(name: str) -> None:
    cluster = Cluster.start(name, detached=True, watcher=_show)
    tools = {Path(cluster.tool(tool)).parent for tool in ("kubectl", "helm")}
    path = os.pathsep.join(sorted(str(folder) for folder in tools))
    print(
        f"\ncluster {name} runs until `python -m e2e.local down --name {name}`\n"
        f"  kubectl     export KUBECONFIG={cluster.kubeconfig} PATH={path}:$PATH\n"
        f"              kubectl --kubeconfig {cluster.kubeconfig} get nodes\n"
        f"  Prometheus  {cluster.prometheus_url}\n"
        f"  logs        {cluster.dir / 'logs'}"
    )


def _down(name: str) -> None:
    try:
        cluster = Cluster.attach(name)
    except NoSuchClusterError:
        # It may have been killed together with its keeper, and left its files.
        state.sweep_dead()
        print(f"cluster {name} is not running")
    else:
        cluster.stop()
        print(f"cluster {name} is gone; its logs are in {cluster.dir / 'logs'}")


def _show(event: Mapping[str, Any]) -> None:
    if event["event"] == "component" and event["state"] == "ready":
        print(f"{event['component']:24} ready after {event['seconds']:.1f} s", flush=True)


def _status(names: Sequence[str]) -> int:
    """Print the state of clusters; 1 when a component of one has failed."""
    failed = False
    if not names:
        print("no cluster is running")
    for name in names:
        cluster = Cluster.attach(name)
        print(f"cluster {name}: {cluster.dir}")
        for component, known in cluster.status().items():
            print(f"  {component:24} {known['state']}")
            if known["state"] == "failed":
                failed = True
                print("    " + known["message"].replace("\n", "\n    "))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
