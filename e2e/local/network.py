"""Devices of a new network namespace, by ioctl.

Everything waits for the loopback device, and importing a netlink library costs a quarter of a second; three
calls do not.
"""

from __future__ import annotations

import fcntl
import socket
import struct

_SIOCSIFFLAGS, _SIOCSIFADDR, _SIOCSIFNETMASK, _SIOCBRADDBR = 0x8914, 0x8916, 0x891C, 0x89A0
_IFF_UP = 1


def bring_up(device: str) -> None:
    """Set a device up."""
    with _control_socket() as control:
        fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sH22x", device.encode(), _IFF_UP))


def add_bridge(device: str, address: str, netmask: str) -> None:
    """Make a bridge with an IPv4 address and set it up.

    Raises:
        OSError: The kernel has no bridges, or the device exists.
    """
    with _control_socket() as control:
        fcntl.ioctl(control, _SIOCBRADDBR, device.encode() + b"\0")
        for request, value in ((_SIOCSIFADDR, address), (_SIOCSIFNETMASK, netmask)):
            packed = struct.pack("16sHH4s16x", device.encode(), socket.AF_INET, 0, socket.inet_aton(value))
            fcntl.ioctl(control, request, packed)
    bring_up(device)


def _control_socket() -> socket.socket:
    return socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
