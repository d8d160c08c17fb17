"""Simulated GPUs: which pod holds which, and how busy they are.

A pod that holds n GPUs of a type may burn n times the type's share of a core; its utilisation is what it
burns of that. All GPUs of a pod are equally busy, as nobody can tell them apart.
"""

import collections
import dataclasses
import uuid
from collections.abc import Mapping, Sequence

from .config import GpuType, NodeConfig

RESOURCE = "nvidia.com/gpu"
WINDOW_SECONDS = 2.0


class AdmissionError(Exception):
    """The node has too few free GPUs."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Device:
    """One simulated GPU."""

    index: int
    uuid: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Holder:
    """Who holds a device."""

    namespace: str
    pod: str
    container: str


class Devices:
    """The GPUs of one node, dealt out as a device plugin does."""

    def __init__(self, node: NodeConfig) -> None:
        space = uuid.uuid5(uuid.NAMESPACE_DNS, node.name)
        self.all = [Device(index=i, uuid=f"GPU-{uuid.uuid5(space, str(i))}") for i in range(node.gpus)]
        self._held: dict[Device, tuple[str, Holder]] = {}

    def allocate(self, pod_uid: str, wanted: Sequence[tuple[Holder, int]]) -> dict[str, list[Device]]:
        """Gives each container its number of devices.

        Args:
            pod_uid: whom they belong to until released.
            wanted: the containers with how many they ask for.

        Returns:
            The devices by container name.

        Raises:
            AdmissionError: not enough are free; nothing is allocated then.
        """
        free = [device for device in self.all if device not in self._held]
        count = sum(number for _, number in wanted)
        if count > len(free):
            raise AdmissionError(
                f"Allocate failed due to requested number of devices unavailable for {RESOURCE}. "
                f"Requested: {count}, Available: {len(free)}, which is unexpected"
            )
        result = {}
        for holder, number in wanted:
            result[holder.container], free = free[:number], free[number:]
            self._held |= dict.fromkeys(result[holder.container], (pod_uid, holder))
        return result

    def release(self, pod_uid: str) -> None:
        """Takes a pod's devices back."""
        self._held = {device: held for device, held in self._held.items() if held[0] != pod_uid}

    def holder(self, device: Device) -> tuple[str, Holder] | None:
        """The pod's uid and the container that hold a device."""
        return self._held.get(device)


class Meter:
    """Utilisation of one pod's GPUs over the last `WINDOW_SECONDS`."""

    def __init__(self, cores: float) -> None:
        self.cores = cores
        """What the pod may burn, in cores."""
        self.resident_bytes = 0
        self._samples: collections.deque[tuple[float, float]] = collections.deque()
        self._ended_seconds = 0.0
        self._live: Mapping[int, float] = {}

    def sample(self, time: float, cpu_seconds: Mapping[int, float], resident_bytes: int) -> None:
        """Takes a measurement.

        Args:
            time: seconds on any clock.
            cpu_seconds: burnt so far, by container process id; a container that restarts gets a new one.
            resident_bytes: memory of all processes of the pod.
        """
        gone = sum(used for pid, used in self._live.items() if pid not in cpu_seconds)
        # NB: what a process burnt shows in its own count, then in its parent's; in between the sum may fall.
        self._live = {pid: max(used, self._live.get(pid, 0.0)) for pid, used in cpu_seconds.items()}
        self._ended_seconds += gone
        self.resident_bytes = resident_bytes
        self._samples.append((time, self._ended_seconds + sum(self._live.values())))
        while len(self._samples) > 2 and self._samples[1][0] <= time - WINDOW_SECONDS:
            self._samples.popleft()

    @property
    def utilisation(self) -> float:
        """Share of the allowance that was burnt, 0 to 1."""
        if len(self._samples) < 2:
            return 0.0
        (start, before), (end, after) = self._samples[0], self._samples[-1]
        return min(1.0, (after - before) / ((end - start) * self.cores))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reading:
    """What the exporter says of one device."""

    device: Device
    node: str
    kind: GpuType
    holder: Holder | None = None
    utilisation: float = 0.0
    used_bytes: float = 0.0


_METRICS = (
    ("DCGM_FI_DEV_GPU_UTIL", "GPU utilization (in %)."),
    ("DCGM_FI_DEV_FB_USED", "Framebuffer memory used (in MiB)."),
    ("DCGM_FI_DEV_FB_FREE", "Framebuffer memory free (in MiB)."),
)


def render(readings: Sequence[Reading]) -> str:
    """The exposition text of the DCGM exporter; labels of the pod only on devices that one holds."""
    lines = []
    for name, help_text in _METRICS:
        lines += [f"# HELP {name} {help_text}", f"# TYPE {name} gauge"]
        for reading in readings:
            used = min(reading.used_bytes / 2**20, reading.kind.memory_mib)
            value = {
                "DCGM_FI_DEV_GPU_UTIL": 100 * reading.utilisation,
                "DCGM_FI_DEV_FB_USED": used,
                "DCGM_FI_DEV_FB_FREE": reading.kind.memory_mib - used,
            }[name]
            labels = {
                "gpu": str(reading.device.index),
                "UUID": reading.device.uuid,
                "device": f"nvidia{reading.device.index}",
                "modelName": reading.kind.product,
                "Hostname": reading.node,
            }
            if reading.holder is not None:
                labels |= {
                    "container": reading.holder.container,
                    "namespace": reading.holder.namespace,
                    "pod": reading.holder.pod,
                }
            text = ",".join(f'{key}="{value}"' for key, value in labels.items())
            lines.append(f"{name}{{{text}}} {value:.0f}")
    return "\n".join(lines) + "\n"
