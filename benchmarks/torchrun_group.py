"""torchrun's elastic agents on this machine, tuned to re-form fast: the other side of the elastic benchmarks.

One agent is one pod: it joins by being started, leaves by SIGTERM, and crashes by SIGKILL of itself and its
worker. Agent 0 holds the rendezvous and stays.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

from benchmarks.local_group import COMMON, free_port
from benchmarks.steps import VARIABLE, Line, Steps, wait

# NB: with the shared store the agents of a group that grows wait for each other for ever.
ENVIRON = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
RENDEZVOUS = "last_call_timeout=2,keep_alive_interval=1,keep_alive_max_attempt=3"
TUNING = f"torchrun: {' '.join(f'{k}={v}' for k, v in ENVIRON.items())}, {RENDEZVOUS}"


class TorchrunGroup:
    """A training module on a changing number of agents of one worker each.

    Args:
        module: What every worker runs.
        directory: For logs and the snapshot; made when it is not there.
        sizes: Least and greatest number of agents.
        environ: Further variables.
    """

    def __init__(
        self,
        module: str,
        directory: Path,
        *,
        sizes: tuple[int, int],
        environ: Mapping[str, str] | None = None,
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._module, self._directory, self._sizes = module, directory, sizes
        self._port = free_port()
        steps = directory / "steps"
        self._environ = {
            **os.environ,
            **COMMON,
            **ENVIRON,
            VARIABLE: str(steps),
            "BENCHMARK_SNAPSHOT": str(directory / "snapshot.pt"),
            **(environ or {}),
        }
        self._agents: dict[int, subprocess.Popen[bytes]] = {}
        self._log = Steps(steps)

    def __enter__(self) -> "TorchrunGroup":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for index in list(self._agents):
            self.kill(index)

    @property
    def steps(self) -> Sequence[Line]:
        """The steps of whoever was rank 0, in the order of time."""
        return sorted((line for line in self._log.steps if line.rank == 0), key=lambda line: line.time)

    def join(self, *indices: int) -> None:
        """Start agents."""
        low, high = self._sizes
        for index in indices:
            command = [
                sys.executable, "-m", "torch.distributed.run", f"--nnodes={low}:{high}", "--nproc-per-node=1",
                "--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{self._port}", "--rdzv-id=benchmark",
                # On one machine each agent takes itself for the host otherwise, and the first to bind is it.
                f"--rdzv-conf={RENDEZVOUS},is_host={int(index == 0)}", "--local-addr=127.0.0.1",
                "--max-restarts=1000", "-m", self._module,
            ]  # fmt: skip
            with (self._directory / f"agent-{index}.log").open("ab") as output:
                self._agents[index] = subprocess.Popen(
                    command,
                    env=self._environ,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )

    def leave(self, *indices: int) -> None:
        """SIGTERM to agents, at once; returns when they are gone."""
        leaving = [self._agents.pop(index) for index in indices]
        for agent in leaving:
            agent.send_signal(signal.SIGTERM)
        for agent in leaving:
            agent.wait()

    def kill(self, index: int) -> None:
        """SIGKILL to an agent with its worker, as when the kernel takes a pod."""
        agent = self._agents.pop(index)
        worker = _children(agent.pid)
        for pid in [agent.pid, *worker]:
            _kill(pid)
        agent.wait()

    def check(self) -> None:
        """Raise when an agent has ended that nobody asked to."""
        for index, agent in self._agents.items():
            if agent.poll() is not None:
                tail = (self._directory / f"agent-{index}.log").read_text(errors="replace").splitlines()[-15:]
                raise SystemExit("\n".join([f"could not measure: torchrun agent {index} ended", *tail]))

    def wait_size(self, size: int, *, steps: int = 1, seconds: float = 180.0) -> None:
        """Wait until the last steps of rank 0 were taken by so many workers."""

        def reached() -> bool:
            last = self.steps[-steps:]
            return len(last) == steps and all(line.world_size == size for line in last)

        wait(reached, what=f"{steps} steps of {size} torchrun workers", check=self.check, seconds=seconds)


def _children(pid: int) -> list[int]:
    """The processes that a process has started, and those that they have."""
    found = [
        int(text) for file in Path(f"/proc/{pid}/task").glob("*/children") for text in _read(file).split()
    ]
    return [process for child in found for process in (child, *_children(child))]


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
