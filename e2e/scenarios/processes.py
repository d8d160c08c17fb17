"""Faults done to real processes: which process of this machine is a pod's trainer, and an end to it."""

import os
import signal
from pathlib import Path


def trainer_processes(pod: str, *, namespace: str) -> list[int]:
    """Process ids, as this machine counts them, of everything whose environment names this pod."""
    # Another cluster of this machine may have a pod of the same name; each test has a namespace of its own.
    wanted = {f"CRA_POD={pod}".encode(), f"CRA_NAMESPACE={namespace}".encode()}
    found = []
    for environment in Path("/proc").glob("[0-9]*/environ"):
        try:
            if wanted <= set(environment.read_bytes().split(b"\0")):
                found.append(int(environment.parent.name))
        except OSError:
            continue  # it ended meanwhile, or is not ours to read
    return found


def kill_trainer(pod: str, *, namespace: str) -> None:
    """SIGKILL a pod's trainer, as the kernel would when memory runs out or a person would by mistake."""
    found = trainer_processes(pod, namespace=namespace)
    assert found, f"no process belongs to pod {pod}"
    for process in found:
        os.kill(process, signal.SIGKILL)
