"""Faults done to real processes: which process of this machine is a pod's trainer, and an end to it."""

import os
import signal
from pathlib import Path

from e2e.reach import Reach


def trainer_processes(pod: str, *, namespace: str) -> list[int]:
    """Process ids, as this machine counts them, of everything whose environment names this pod."""
    # Another cluster of this machine may have a pod of the same name; each test has a namespace of its own.
    return processes_with(CRA_POD=pod, CRA_NAMESPACE=namespace)


def processes_with(**variables: str) -> list[int]:
    """Process ids of everything that has these variables in its environment."""
    wanted = {f"{name}={value}".encode() for name, value in variables.items()}
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
    _kill(trainer_processes(pod, namespace=namespace), f"pod {pod}")


def kill_operator(reach: Reach, *, namespace: str) -> None:
    """SIGKILL the operator; its pod's restart policy brings up the next one."""
    listed = reach.kubectl(
        "get", "pods", "-n", namespace, "-l", "app.kubernetes.io/name=cra-operator", "-o", "name"
    )
    names = [line.removeprefix("pod/") for line in listed.split()]
    found = [
        process
        for name in names
        for process in processes_with(CRA_POD_NAME=name, CRA_POD_NAMESPACE=namespace)
    ]
    _kill(found, "the operator")


def _kill(found: list[int], whose: str) -> None:
    assert found, f"no process belongs to {whose}"
    for process in found:
        os.kill(process, signal.SIGKILL)
