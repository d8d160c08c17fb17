"""From the specification of a container to the order to start it: environment, command, files."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from . import environ, files, mounts, volumes
from .api import UNREACHABLE, ApiError, Object
from .config import parse_image
from .environ import Facts
from .nodes import Node
from .runtime import Runtime
from .sandbox import Order

_NOT_FOUND = 404
_DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class RefusedError(Exception):
    """The container cannot be started now; a later try may go better."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclasses.dataclass(frozen=True, kw_only=True)
class PodContext:
    """What a container needs from its pod once that has its network and volumes."""

    pod: Object
    node: Node
    facts: Facts
    paths: Mapping[str, Path]
    """Where its volumes lie."""
    files: Sequence[mounts.Mount]
    """What every container mounts."""
    namespaces: Sequence[int]
    groups: Sequence[str]
    devices: Mapping[str, Sequence[str]]
    """Ids of the GPUs of each container."""
    directory: Path


async def prepare(runtime: Runtime, context: PodContext, spec: Object, run: int) -> tuple[Order, Path]:
    """Turns a container's specification into an order.

    Args:
        runtime: the agent's means.
        context: what its pod has.
        spec: the container as in the pod.
        run: how often it was started before.

    Returns:
        The order, and the file that will hold the termination message.

    Raises:
        RefusedError: the image is unknown, or something that it needs is not there.
    """
    image = runtime.config.images.get(parse_image(spec["image"]))
    if image is None:
        text = f'failed to pull image "{spec["image"]}": not in this node\'s catalogue'
        raise RefusedError("ErrImagePull", text)
    pod = context.pod
    base = {"PATH": _DEFAULT_PATH, "HOME": "/tmp", "HOSTNAME": files.hostname(pod), **image.env}
    services = runtime.endpoints.services.values()
    links = pod["spec"].get("enableServiceLinks", True)
    base |= environ.service_variables(services, pod["metadata"]["namespace"], links=links)
    if devices := context.devices.get(spec["name"]):
        base["NVIDIA_VISIBLE_DEVICES"] = ",".join(devices)
    try:
        sources = await _sources(runtime, context, spec)
        env = environ.build(spec, pod, context.facts, sources, base)
    except (environ.MissingReferenceError, ApiError, *UNREACHABLE) as error:
        raise RefusedError("CreateContainerConfigError", str(error)) from error
    command = [environ.expand(word, env) for word in spec.get("command", [])] or list(image.entrypoint)
    argv = command + [environ.expand(word, env) for word in spec.get("args", [])]
    if not argv:
        raise RefusedError("CreateContainerError", "no command specified")
    message_file, root = _own_files(context.directory, spec["name"], run)
    target = spec.get("terminationMessagePath") or "/dev/termination-log"
    wanted = [*context.files, mounts.Mount(target=target, source=str(message_file), kind="file")]
    try:
        wanted += volumes.container_mounts(spec, pod, context.paths, lambda text: environ.expand(text, env))
        plan = mounts.plan(wanted, mounts.HostTree(), keep=runtime.keep)
    except (volumes.VolumeError, mounts.MountError, OSError) as error:
        raise RefusedError("CreateContainerError", str(error)) from error
    order = Order(
        argv=argv,
        env=env,
        cwd=spec.get("workingDir") or "/",
        root=root,
        plan=plan,
        read_only_root=spec.get("securityContext", {}).get("readOnlyRootFilesystem", False),
        namespaces=context.namespaces,
        groups=context.groups,
    )
    return order, message_file


async def _sources(runtime: Runtime, context: PodContext, spec: Object) -> environ.Sources:
    """Reads the config maps and secrets that the environment needs, as they are now."""
    namespace = context.pod["metadata"]["namespace"]
    found: dict[tuple[str, str], Object | None] = {}
    for kind, name in environ.references(spec):
        collection = "configmaps" if kind == "ConfigMap" else "secrets"
        try:
            found[kind, name] = await runtime.api.get(f"/api/v1/namespaces/{namespace}/{collection}/{name}")
        except ApiError as error:
            if error.status != _NOT_FOUND:
                raise
            found[kind, name] = None
    return found


def _own_files(directory: Path, name: str, run: int) -> tuple[Path, Path]:
    message_file = directory / "messages" / name / str(run)
    message_file.parent.mkdir(parents=True, exist_ok=True)
    message_file.write_bytes(b"")
    root = directory / "roots" / name
    root.mkdir(parents=True, exist_ok=True)
    return message_file, root
