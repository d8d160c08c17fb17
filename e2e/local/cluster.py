"""A cluster as its user sees it: start, use, stop."""

from __future__ import annotations

import os
import re
import secrets
import subprocess
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any

from e2e.local import control, state
from e2e.local.errors import CommandError, NoSuchClusterError, StartError
from e2e.local.gputypes import DEFAULT_NODES, GPU_TYPES, NodeSpec
from e2e.local.images import default_images
from e2e.local.layout import Layout, clusters_home
from e2e.local.node.config import GpuType, ImageConfig
from e2e.local.state import Record
from e2e.local.supervisor import log_tail
from e2e.local.toolchain import ensure_tools

_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,38}[a-z0-9])?")
_STOP_GRACE = 10.0

Watcher = Callable[[Mapping[str, Any]], None]


class Cluster:
    """A running cluster.

    Made by `start` or `attach`. As a context manager it is stopped at the end of the block.

    Attributes:
        name: Its name.
        dir: Its state directory, with `logs` inside.
        kubeconfig: For the host; the user is cluster admin.
        prometheus_url: Prometheus on the host.
    """

    def __init__(self, layout: Layout, record: Record, keeper: subprocess.Popen[bytes] | None = None) -> None:
        self.name = layout.root.name
        self.dir = layout.root
        self.kubeconfig = layout.kubeconfig
        self.prometheus_url = record.prometheus_url
        self._layout = layout
        self._record = record
        self._keeper = keeper

    @classmethod
    def start(
        cls,
        name: str | None = None,
        *,
        nodes: Sequence[NodeSpec] = DEFAULT_NODES,
        gpu_types: Mapping[str, GpuType] = GPU_TYPES,
        images: Mapping[str, ImageConfig] | None = None,
        scrape_interval: str = "1s",
        detached: bool = False,
        watcher: Watcher = lambda event: None,
    ) -> Cluster:
        """Start a cluster and wait until its nodes are ready; takes seconds once the tools are built.

        Args:
            name: RFC 1123 label of at most 40 characters; a random one by default.
            nodes: What it consists of; none at all gives a control plane that only takes objects.
            gpu_types: What the nodes' types of GPU are worth.
            images: Images that pods may name, beside the default ones.
            scrape_interval: How often Prometheus scrapes, such as ``1s``.
            detached: Leave it running when this process ends; otherwise it dies with it, whatever the cause.
            watcher: Called with each event of the start, as the control socket gives them.

        Raises:
            ClusterExistsError: The name is taken.
            ToolMissingError: A program is missing and cannot be built.
            StartError: It did not come up; nothing of it runs any more.
        """
        name = name or f"c-{secrets.token_hex(4)}"
        if not _NAME.fullmatch(name):
            raise ValueError(f"name {name!r}: use at most 40 of a-z, 0-9 and '-', no '-' at the ends")
        tools = ensure_tools()
        # NB: here, for it imports packages; the command `build` works while pip is still installing them.
        from e2e.local.launch import Description, launch

        description = Description(
            tools=tools,
            nodes=nodes,
            gpu_types=gpu_types,
            images={**default_images(), **(images or {})},
            scrape_interval=scrape_interval,
        )
        state.sweep_dead()
        layout = Layout(clusters_home() / name)
        layout.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = state.take_lock(layout)
        try:
            state.sweep(layout, keep_logs=False)
            record, keeper = launch(layout, description, lock=lock, detached=detached)
        finally:
            os.close(lock)
        cluster = cls(layout, record, keeper)
        try:
            cluster._await_ready(watcher)
        except BaseException:
            cluster.stop()
            raise
        return cluster

    @classmethod
    def attach(cls, name: str) -> Cluster:
        """The running cluster of this name.

        Raises:
            NoSuchClusterError: There is none.
        """
        running = dict(state.clusters())
        if name not in running:
            names = ", ".join(running) or "none"
            raise NoSuchClusterError(f"no cluster {name} is running; running: {names}")
        return cls(Layout(clusters_home() / name), running[name])

    def __enter__(self) -> Cluster:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """End everything; what stays is the folder of logs. Does nothing to a cluster that has ended."""
        state.end(self._record, _STOP_GRACE)
        if self._keeper is not None:
            self._keeper.wait()
        state.sweep(self._layout, keep_logs=True)

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        """Run kubectl as cluster admin and return what it prints.

        Raises:
            CommandError: It fails.
        """
        return self._run("kubectl", arguments, stdin)

    def helm(self, *arguments: str) -> str:
        """Run Helm as cluster admin and return what it prints; its caches and settings are the cluster's own.

        Raises:
            CommandError: It fails.
        """
        return self._run("helm", arguments, None)

    def status(self) -> Mapping[str, Mapping[str, Any]]:
        """By component: `state`, `exitCode`, and `message` with the end of the log where it has failed.

        Raises:
            NoSuchClusterError: The cluster has ended.
        """
        components: Mapping[str, Mapping[str, Any]] = self._request("status")["components"]
        return components

    def stop_component(self, name: str) -> None:
        """Kill a component, as a crash would; it stays dead until `restart_component`."""
        self._request("stop", component=name)

    def restart_component(self, name: str) -> None:
        """Kill a component if it runs, start it, and wait until it works; any but the node agent."""
        self._request("restart", component=name)

    def tool(self, name: str) -> str:
        """Path of one of the programs that this cluster was started with."""
        return self._record.tools[name]

    def _request(self, op: str, **fields: Any) -> Mapping[str, Any]:
        return control.request(self._layout.control, op, **fields)

    def _run(self, tool: str, arguments: Sequence[str], stdin: str | None) -> str:
        env = os.environ | {"KUBECONFIG": str(self.kubeconfig)}
        for kind in ("CACHE", "CONFIG", "DATA"):
            env[f"HELM_{kind}_HOME"] = str(self.dir / "helm" / kind.lower())
        done = subprocess.run(
            [self.tool(tool), *arguments], env=env, input=stdin, capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            said = (done.stderr or done.stdout).strip()
            raise CommandError(f"{tool} {' '.join(arguments)}: exit code {done.returncode}: {said}")
        return done.stdout

    def _await_ready(self, watcher: Watcher) -> None:
        try:
            for event in control.stream(self._layout.control, {"op": "wait"}):
                watcher(event)
                if event["event"] == "failed":
                    raise StartError(event["message"])
                if event["event"] == "ready":
                    return
        except NoSuchClusterError:
            # It ended before init could answer; what is known stands in its log.
            pass
        tail = log_tail(self._layout.log("init"))
        *_, last = tail.splitlines()
        if last.strip().startswith("error: "):
            raise StartError(last.strip().removeprefix("error: "))
        raise StartError(f"the cluster ended while it started; init's log ends:\n{tail}")
