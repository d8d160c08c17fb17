"""The group of processes that train together, and the way from one group to the next.

A group has a number, an exact size and one process group of torch: NCCL for tensors on GPUs and gloo for
those on CPUs, which also carries what the session itself has to say outside of a step. Who is in it is
settled over the membership channel (`roster`, `coordinator`, `member`); torch's store, which lives with rank
0 like the coordinator, serves only to connect. Outside a cluster the group is one process with the same
machinery, so that there is one code path.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import secrets
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import numpy as np
import torch
from torch import distributed as dist
from torch import nn
from torch._C._distributed_c10d import HashStore, PrefixStore, Store, TCPStore
from torch.nn.parallel import DistributedDataParallel

from cra_trainer.allocation.shares import Floats, Ints
from cra_trainer.config import Env
from cra_trainer.elastic.coordinator import Coordinator
from cra_trainer.elastic.member import LeaderLost, Member
from cra_trainer.elastic.roster import NOTHING, Hello, Plan, Standing
from cra_trainer.termination import is_peer_loss

log = logging.getLogger("cra_trainer")

# Rank 0 may evaluate or save alone while the others wait in a collective; a lost peer is noticed at once,
# over the membership channel, so this long wait only bounds what nobody thought of.
TIMEOUT = timedelta(minutes=10)
FORMING = timedelta(seconds=20)
"""How long a rank that died in the instant of being called is waited for."""


class ShardsLost(dist.DistError):
    """A rank that held a part of the model is gone: what is left is the newest checkpoint."""


@dataclass(frozen=True, kw_only=True)
class Group:
    """One group, as seen from this process.

    Attributes:
        plan: Its members.
        rank: This process's.
        device: Where this process computes.
        store: Where its ranks find each other.
        own_ports: Ports of this process whose connections are none of the group's.
    """

    plan: Plan
    rank: int
    device: torch.device
    store: Store = field(repr=False)
    own_ports: frozenset[int] = frozenset()
    _links: list[int] = field(default_factory=list, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @property
    def world_size(self) -> int:
        """Number of ranks."""
        return len(self.plan.seats)

    @property
    def generation(self) -> int:
        """The newest cohort of pods in it."""
        return self.plan.generation

    def connect(self) -> None:
        """Connect its ranks.

        Raises:
            RuntimeError: One of them did not come in time, or is gone already.
        """
        if dist.is_initialized():
            return
        before = _open_files()
        _connect(self.device, self.store, self.rank, self.world_size)
        with self._lock:
            self._links.extend(f for f in _open_files() - before if _is_link(f, self.own_ports))

    def gather(self, values: list[float]) -> Floats:
        """Every rank's list of numbers, [world_size, len(values)], on every rank."""
        table = torch.zeros(self.world_size, len(values), dtype=torch.float64)
        dist.all_gather(list(table), torch.tensor(values, dtype=torch.float64))
        return np.asarray(table.numpy())

    def agree(self, values: Ints) -> Ints:
        """The values, [n], of a rank that holds the furthest state, on every rank."""
        told = torch.from_numpy(values.copy())
        dist.broadcast(told, src=self.plan.sources[0])
        return np.asarray(told.numpy())

    def abort(self) -> None:
        """Free whoever is in one of its collectives; called by another thread.

        NB: gloo's own abort does nothing (torch 2.15). A rank that waits for one that hangs is freed by
        shutting its connections down under gloo, as if the other had died.
        """
        with self._lock:
            for file in self._links:
                with contextlib.suppress(OSError), _as_socket(file) as link:
                    link.shutdown(socket.SHUT_RDWR)
            if self.device.type == "cuda" and dist.is_initialized():
                dist.distributed_c10d._abort_process_group()

    def end(self) -> None:
        """Take its connections down."""
        with self._lock:
            self._links.clear()
            if dist.is_initialized():
                dist.destroy_process_group()


class Membership:
    """This process's way into the training, from group to group and out of it.

    Args:
        env: Where the leader is, and what this process's place shall be.
        on_member: Called when this rank gets a place in a group: from now on it has something to lose.
        on_exclusion: Called when the others have given this rank up; gets the reason and does not return.

    Raises:
        torch.distributed.DistError: The leader cannot be reached.
    """

    def __init__(
        self, env: Env, *, on_member: Callable[[], None], on_exclusion: Callable[[str], None]
    ) -> None:
        self.device = choose_device(env)
        self.uid = f"{env.pod or socket.gethostname()}/{env.local_rank}/{secrets.token_hex(4)}"
        self._env, self._on_member = env, on_member
        self._group: Group | None = None
        self._coordinator: Coordinator | None = None
        self._member: Member | None = None
        self._store: Store = HashStore()
        self._own_ports: frozenset[int] = frozenset()
        if not env.launched:
            return
        _choose_interface(env)
        restarts = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        address = os.environ.get("MASTER_ADDR", "127.0.0.1")
        port = int(os.environ.get("MASTER_PORT", "29500"))
        # Under torchrun the agent may hold the store already.
        held = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
        server = TCPStore(address, port, None, env.rank == 0 and not held, TIMEOUT, False)
        self._store = PrefixStore(f"cra/{restarts}", server)
        if env.rank == 0:
            self._coordinator = Coordinator(env.pod_ip or "0.0.0.0")
            self._store.set("coordinator", str(self._coordinator.port))
        coordinator = int(self._store.get("coordinator"))
        self._own_ports = frozenset({port, coordinator, env.metrics_port or 0})
        self._member = Member(
            (address, coordinator), on_plan=on_member, on_abort=self._abort, on_exclusion=on_exclusion
        )

    @property
    def change_wanted(self) -> bool:
        """Whether newcomers wait for the next step to end; known to rank 0 alone."""
        return self._coordinator is not None and self._coordinator.change_wanted

    def computing(self, yes: bool) -> None:
        """A step's own part begins or ends."""
        if self._member is not None:
            self._member.computing(yes)

    def join(self, standing: Standing) -> Group:
        """Be taken in: with all of the first cohort, or by those who train already; once per process.

        Args:
            standing: What this rank holds; only rank 0 holds something before there is a group.
        """
        if self._group is not None:
            return self._group
        env = self._env
        hello = Hello(
            uid=self.uid,
            place=env.rank,
            cohort=env.generation,
            joining=env.joining,
            standing=standing if env.rank == 0 else NOTHING,
        )
        if self._member is None:
            self._on_member()
            return self._seat(Plan(number=1, seats=(hello,)))
        _warm_up(self.device)
        return self._seat(self._member.hello(hello))

    def next(self, standing: Standing, *, broken: bool) -> Group:
        """End this group and form the next one; all of its ranks do so after the same step, or after a loss.

        Raises:
            LeaderLost: Rank 0 is gone.
        """
        assert self._group is not None
        assert self._member is not None, "a group of one never changes"
        self._group.end()
        return self._seat(self._member.stand(standing, broken=broken))

    def is_loss(self, error: BaseException) -> bool:
        """Whether a collective failed because the group is broken, and the next one can go on."""
        if isinstance(error, LeaderLost | ShardsLost) or self._member is None or self.device.type != "cpu":
            return False
        return isinstance(error, RuntimeError) and (self._member.broken or is_peer_loss(error))

    @property
    def broken(self) -> bool:
        """Whether the present group has been given up."""
        return self._member is not None and self._member.broken

    def leave(self) -> None:
        """Leave for good, after a step that all ranks have done."""
        if self._member is not None:
            self._member.leave()

    def finish(self) -> bool:
        """Wait for all ranks to come to the end; False if the group must be formed anew before."""
        if self._member is not None and not self._member.finish():
            return False
        assert self._group is not None
        self._group.end()
        return True

    def _seat(self, plan: Plan) -> Group:
        store = PrefixStore(f"group/{plan.number}", self._store)
        self._group = Group(
            plan=plan,
            rank=plan.rank(self.uid),
            device=self.device,
            store=store,
            own_ports=self._own_ports,
        )
        return self._group

    def _abort(self) -> None:
        if self._group is not None:
            self._group.abort()


def _connect(device: torch.device, store: Store, rank: int, world_size: int) -> None:
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
        store=store,
        rank=rank,
        world_size=world_size,
        timeout=FORMING,
    )
    dist.set_timeout(TIMEOUT)


def _warm_up(device: torch.device) -> None:
    """Do once alone what a newcomer would else do for the first time while the others wait for it."""
    _connect(device, HashStore(), 0, 1)
    model = DistributedDataParallel(
        nn.Linear(1, 1, device=device), device_ids=[device.index] if device.type == "cuda" else None
    )
    model(torch.ones(1, 1, device=device)).sum().backward()
    del model
    dist.destroy_process_group()


def _open_files() -> set[int]:
    return {int(path.name) for path in Path("/proc/self/fd").iterdir()}


@contextlib.contextmanager
def _as_socket(file: int) -> Iterator[socket.socket]:
    """An open file as a socket of its own; OSError when it is none."""
    copy = os.dup(file)
    try:
        link = socket.socket(fileno=copy)
    except OSError:
        os.close(copy)
        raise
    with link:
        yield link


def _is_link(file: int, own_ports: frozenset[int]) -> bool:
    """Whether an open file is a connection to a peer, and none of those on ports of our own."""
    try:
        with _as_socket(file) as link:
            ports = {link.getsockname()[1], link.getpeername()[1]}
    except OSError:  # Not a socket, or not connected, or closed by now.
        return False
    return not ports & own_ports


def _choose_interface(env: Env) -> None:
    """Name gloo's interface: left alone it takes the address that the host name resolves to, and the loopback
    where it does not.
    """
    if env.pod_ip and "GLOO_SOCKET_IFNAME" not in os.environ:
        name = interface_of(env.pod_ip)
        if name:
            os.environ["GLOO_SOCKET_IFNAME"] = name


def choose_device(env: Env) -> torch.device:
    """This local rank's GPU, or the CPU where there are fewer GPUs than local ranks."""
    if torch.cuda.device_count() >= max(env.local_world_size, env.local_rank + 1):
        device = torch.device("cuda", env.local_rank)
        torch.cuda.set_device(device)
        return device
    if env.launched and "OMP_NUM_THREADS" not in os.environ:
        # As torchrun: ranks that share a machine's cores would otherwise each take all of them.
        torch.set_num_threads(1)
    return torch.device("cpu")


def interface_of(address: str) -> str | None:
    """The network interface that carries an IPv4 address; None where there is none."""
    siocgifaddr = 0x8915
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            request = struct.pack("256s", name.encode()[:15])
            try:
                reply = fcntl.ioctl(probe.fileno(), siocgifaddr, request)
            except OSError:  # An interface without an IPv4 address.
                continue
            if socket.inet_ntoa(reply[20:24]) == address:
                return name
    return None
