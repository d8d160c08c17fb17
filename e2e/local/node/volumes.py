"""A pod's volumes: directories of the host that its containers mount.

Config maps, secrets and the downward API are written once, when the pod starts; later changes of theirs do
not reach a running pod. Only service account tokens are kept fresh. Sizes are enforced on memory volumes
only.
"""

import asyncio
import dataclasses
import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from . import environ, quantity, sandbox
from .api import UNREACHABLE, Api, ApiError, Object
from .environ import Facts, MissingReferenceError
from .mounts import Kind, Mount

_log = logging.getLogger(__name__)
_NOT_FOUND = 404
_READ_ONLY = ("configMap", "secret", "projected", "downwardAPI")
_RETRY_SECONDS = 10.0
_RENEW_AT = 0.8
_DEFAULT_TOKEN_SECONDS = 3600


class VolumeError(Exception):
    """A volume cannot be had (yet); the message names it."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Token:
    """A service account token to keep in a file."""

    file: Path
    audiences: Sequence[str]
    seconds: int


class Volumes:
    """The volumes of one pod."""

    def __init__(self, api: Api, pod: Object, facts: Facts, *, directory: Path, host_paths: Path) -> None:
        self._api, self._pod, self._facts = api, pod, facts
        self._directory, self._host_paths = directory, host_paths
        self._tokens: list[Token] = []
        self._mounted: list[Path] = []
        self.paths: dict[str, Path] = {}
        """Where each volume lies, by name; a directory, or a file for some host paths."""

    async def set_up(self) -> None:
        """Makes all volumes.

        Raises:
            VolumeError: one is not there (yet); trying again later may help.
        """
        for volume in self._pod["spec"].get("volumes", []):
            name = volume["name"]
            if name not in self.paths:
                try:
                    self.paths[name] = await self._make(volume, self._directory / name)
                except (ApiError, OSError, MissingReferenceError) as error:
                    raise VolumeError(f'MountVolume.SetUp failed for volume "{name}" : {error}') from error

    async def _make(self, volume: Object, path: Path) -> Path:
        if "persistentVolumeClaim" in volume:
            return await self._claimed(volume["persistentVolumeClaim"]["claimName"])
        if "hostPath" in volume:
            return _host_path(self._host_paths / self._facts.node_name, volume["hostPath"])
        _make_directory(path, 0o777 if "emptyDir" in volume else 0o755)
        if "emptyDir" in volume:
            if volume["emptyDir"].get("medium") == "Memory":
                limit = volume["emptyDir"].get("sizeLimit")
                size = f",size={int(quantity.parse(limit))}" if limit else ""
                await asyncio.to_thread(sandbox.mount_tmpfs, path, f"mode=777{size}")
                self._mounted.append(path)
        elif "projected" in volume:
            mode = volume["projected"].get("defaultMode", 0o644)
            for source in volume["projected"]["sources"]:
                await self._project(source, path, mode)
        elif any(kind in volume for kind in _READ_ONLY):
            kind = next(kind for kind in _READ_ONLY if kind in volume)
            source = dict(volume[kind])
            if "secretName" in source:
                source["name"] = source["secretName"]
            await self._project({kind: source}, path, source.get("defaultMode", 0o644))
        else:
            kinds = ", ".join(key for key in volume if key != "name")
            raise VolumeError(f'volume "{volume["name"]}": {kinds} is not supported by this node')
        return path

    async def _project(self, source: Object, path: Path, mode: int) -> None:
        for kind, field in (("ConfigMap", "configMap"), ("Secret", "secret")):
            if field in source:
                data = await self._data(kind, source[field])
                for name, content, own_mode in _select(data, source[field], kind):
                    _write(path, name, content, own_mode or mode)
        if "downwardAPI" in source:
            for item in source["downwardAPI"].get("items", []):
                _write(path, item["path"], self._downward(item).encode(), item.get("mode") or mode)
        if "serviceAccountToken" in source:
            wanted = source["serviceAccountToken"]
            token = Token(
                file=path / wanted["path"],
                audiences=[wanted["audience"]] if wanted.get("audience") else [],
                seconds=wanted.get("expirationSeconds", _DEFAULT_TOKEN_SECONDS),
            )
            await self._write_token(token)
            self._tokens.append(token)

    async def _data(self, kind: str, reference: Object) -> dict[str, bytes]:
        collection = "configmaps" if kind == "ConfigMap" else "secrets"
        namespace = self._pod["metadata"]["namespace"]
        try:
            source = await self._api.get(f"/api/v1/namespaces/{namespace}/{collection}/{reference['name']}")
        except ApiError as error:
            if error.status != _NOT_FOUND:
                raise
            if reference.get("optional"):
                return {}
            raise VolumeError(f'{kind.lower()} "{reference["name"]}" not found') from error
        return environ.data_of(kind, source)

    def _downward(self, item: Object) -> str:
        if "fieldRef" in item:
            return environ.field(item["fieldRef"]["fieldPath"], self._pod, self._facts)
        name = item["resourceFieldRef"]["containerName"]
        container = next(c for c in self._pod["spec"]["containers"] if c["name"] == name)
        return environ.resource_field(item["resourceFieldRef"], container, self._facts)

    async def _claimed(self, claim_name: str) -> Path:
        namespace = self._pod["metadata"]["namespace"]
        claim = await self._api.get(f"/api/v1/namespaces/{namespace}/persistentvolumeclaims/{claim_name}")
        name = claim["spec"].get("volumeName")
        if claim.get("status", {}).get("phase") != "Bound" or not name:
            raise VolumeError(f'persistentvolumeclaim "{claim_name}" is not bound')
        volume = await self._api.get(f"/api/v1/persistentvolumes/{name}")
        if "hostPath" not in volume["spec"]:
            raise VolumeError(f'persistentvolume "{name}" is of a kind that is not supported by this node')
        return Path(volume["spec"]["hostPath"]["path"])

    async def _write_token(self, token: Token) -> float:
        """Asks for a token and writes it; gives the seconds after which to do so again."""
        meta = self._pod["metadata"]
        account = self._pod["spec"]["serviceAccountName"]
        body: Object = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {
                "audiences": token.audiences,
                "expirationSeconds": token.seconds,
                "boundObjectRef": {
                    "apiVersion": "v1",
                    "kind": "Pod",
                    "name": meta["name"],
                    "uid": meta["uid"],
                },
            },
        }
        path = f"/api/v1/namespaces/{meta['namespace']}/serviceaccounts/{account}/token"
        answer = await self._api.create(path, body)
        _write(token.file.parent, token.file.name, answer["status"]["token"].encode(), 0o600)
        return token.seconds * _RENEW_AT

    async def keep_tokens_fresh(self) -> None:
        """Renews tokens before they expire, until cancelled."""

        async def keep(token: Token) -> None:
            wait = token.seconds * _RENEW_AT
            while True:
                await asyncio.sleep(wait)
                try:
                    wait = await self._write_token(token)
                except (ApiError, *UNREACHABLE) as error:
                    _log.warning("token of pod %s: %s", self._pod["metadata"]["name"], error)
                    wait = _RETRY_SECONDS

        await asyncio.gather(*(keep(token) for token in self._tokens))

    def remove(self) -> None:
        """Deletes what belongs to the pod alone. Blocks."""
        for path in self._mounted:
            sandbox.unmount(path)
        shutil.rmtree(self._directory, ignore_errors=True)


def container_mounts(
    container: Mapping[str, Any], pod: Object, paths: Mapping[str, Path], expand: Callable[[str], str]
) -> list[Mount]:
    """What a container mounts of its pod's volumes.

    Args:
        container: its specification.
        pod: the object that it belongs to.
        paths: where the volumes lie, by name.
        expand: replaces `$(NAME)` in sub-path expressions.

    Raises:
        VolumeError: a mount leads out of its volume.
    """
    kinds = {volume["name"]: volume for volume in pod["spec"].get("volumes", [])}
    result = []
    for mount in container.get("volumeMounts", []):
        source = paths[mount["name"]]
        if "subPathExpr" in mount or mount.get("subPath"):
            below = expand(mount["subPathExpr"]) if "subPathExpr" in mount else mount["subPath"]
            if below.startswith("/") or ".." in Path(below).parts:
                raise VolumeError(f"subPath {below!r} of volume {mount['name']} leads out of it")
            source = source / below
            if not source.exists():
                source.mkdir(parents=True)
        volume = kinds[mount["name"]]
        claim = volume.get("persistentVolumeClaim", {})
        read_only = (
            any(kind in volume for kind in _READ_ONLY) or claim.get("readOnly") or mount.get("readOnly")
        )
        kind: Kind = "dir" if source.is_dir() else "file"
        target = mount["mountPath"]
        result.append(Mount(target=target, source=str(source), kind=kind, read_only=bool(read_only)))
    return result


def _select(data: Mapping[str, bytes], reference: Object, kind: str) -> list[tuple[str, bytes, int | None]]:
    if "items" not in reference:
        return [(key, value, None) for key, value in data.items()]
    chosen = []
    for item in reference["items"]:
        if item["key"] in data:
            chosen.append((item["path"], data[item["key"]], item.get("mode")))
        elif not reference.get("optional"):
            raise VolumeError(f'{kind.lower()} "{reference["name"]}" has no key {item["key"]}')
    return chosen


def _write(folder: Path, name: str, content: bytes, mode: int) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    # Readers see the old content or the new one, never half of it.
    fresh = path.with_name(f".{path.name}.new")
    fresh.write_bytes(content)
    fresh.chmod(mode)
    fresh.replace(path)


def _make_directory(path: Path, mode: int) -> None:
    path.mkdir(parents=True, exist_ok=True)
    path.chmod(mode)


def _host_path(node: Path, source: Object) -> Path:
    path: Path = node / source["path"].lstrip("/")
    kind = source.get("type") or "DirectoryOrCreate"
    if not path.resolve().is_relative_to(node.resolve()):
        raise VolumeError(f"hostPath {source['path']} leads out of the node's directory")
    if kind == "DirectoryOrCreate":
        path.mkdir(parents=True, exist_ok=True)
    elif kind == "FileOrCreate":
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    elif not path.exists():
        raise VolumeError(f"hostPath {source['path']} of type {kind} does not exist on this node")
    return path
