"""The group of processes that train together.

A group has a generation, an exact size and one process group of torch: NCCL for tensors on GPUs and gloo for
those on CPUs, which also carries what the session itself has to say outside of a step. Outside a cluster the
group is one process with the same machinery, so that there is one code path.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from dataclasses import dataclass
from datetime import timedelta

import numpy as np
import torch
from torch import distributed as dist
from torch._C._distributed_c10d import HashStore, PrefixStore, Store

from cra_trainer.allocation.shares import Floats
from cra_trainer.config import Env

# Rank 0 may evaluate or save alone while the others wait in a collective; a lost peer is noticed at once, by
# its closed connection, so this long wait only bounds a peer that is silent for good.
TIMEOUT = timedelta(minutes=10)


@dataclass(frozen=True, kw_only=True)
class Group:
    """One generation of the training group, as seen from this process."""

    rank: int
    world_size: int
    generation: int
    device: torch.device
    store: Store

    def broadcast(self, payload: bytes | None) -> bytes | None:
        """Rank 0's bytes, on every rank; what the others pass is ignored."""
        size = torch.tensor([-1 if payload is None else len(payload)])
        dist.broadcast(size, src=0)
        if int(size) < 0:
            return None
        if self.rank == 0 and payload is not None:
            data = torch.frombuffer(bytearray(payload), dtype=torch.uint8)
        else:
            data = torch.empty(int(size), dtype=torch.uint8)
        if len(data):
            dist.broadcast(data, src=0)
        return data.numpy().tobytes()

    def gather(self, values: list[float]) -> Floats:
        """Every rank's list of numbers, [world_size, len(values)], on every rank."""
        table = torch.zeros(self.world_size, len(values), dtype=torch.float64)
        dist.all_gather(list(table), torch.tensor(values, dtype=torch.float64))
        return np.asarray(table.numpy())

    def dissolve(self) -> None:
        """Wait for all ranks, so that rank 0 and its store are not gone first, and end the process group."""
        dist.barrier()
        dist.destroy_process_group()


def form(env: Env) -> Group:
    """Join the group that the environment names; returns when all of its processes are there.

    Raises:
        torch.distributed.DistError: A process did not come in time.
    """
    device = choose_device(env)
    store: Store
    if env.launched:
        if env.pod_ip and "GLOO_SOCKET_IFNAME" not in os.environ:
            # Left alone, gloo takes the address that the host name resolves to, and the loopback where it
            # does not.
            name = interface_of(env.pod_ip)
            if name:
                os.environ["GLOO_SOCKET_IFNAME"] = name
        # Reads torchrun's variables, and knows when torchrun itself holds the store.
        rendezvous = dist.rendezvous(  # type: ignore[attr-defined]
            "env://", rank=env.rank, world_size=env.world_size, timeout=TIMEOUT
        )
        store = next(iter(rendezvous))[0]
    else:
        store = HashStore()
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
        store=PrefixStore(f"generation/{env.generation}", store),
        rank=env.rank,
        world_size=env.world_size,
        timeout=TIMEOUT,
    )
    return Group(
        rank=env.rank, world_size=env.world_size, generation=env.generation, device=device, store=store
    )


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
