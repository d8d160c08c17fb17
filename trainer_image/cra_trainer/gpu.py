"""What NVML tells of this rank's GPU: how busy it is, what it draws, how hot it is.

Where there is no GPU, no NVML, or a GPU without such a sensor, as an instance of a partitioned one, there is
no number.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch


class Sensors(NamedTuple):
    """One look at a GPU; None for what it does not tell.

    Attributes:
        utilization: Part of the last moments in which any kernel ran, 0 to 1.
        watts: Power that it drew.
        celsius: Temperature of its die.
    """

    utilization: float | None = None
    watts: float | None = None
    celsius: float | None = None


def look(device: torch.device) -> Sensors:
    """Read the sensors: meant for a scrape, not for every step."""
    if device.type != "cuda":
        return Sensors()
    return Sensors(
        utilization=_told(lambda: torch.cuda.utilization(device) / 100),
        watts=_told(lambda: torch.cuda.power_draw(device) / 1000),
        celsius=_told(lambda: float(torch.cuda.temperature(device))),
    )


def _told(sensor: Callable[[], float]) -> float | None:
    try:
        return sensor()
    except Exception:
        # NB: NVML's errors are classes of its package, which may be missing; none is worth a training.
        return None
