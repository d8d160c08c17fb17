"""Gives claims of the class `standard` a volume: a directory beneath the agent's, the same on all nodes.

Sizes and access modes are recorded, not enforced.
"""

import asyncio
import logging
import shutil
from pathlib import Path

from .api import UNREACHABLE, Api, ApiError, Object
from .watch import Watch

_log = logging.getLogger(__name__)
STORAGE_CLASS = "standard"
_PROVISIONED_BY = "pv.kubernetes.io/provisioned-by"
_PROVISIONER_ANNOTATION = "volume.kubernetes.io/storage-provisioner"
_CONFLICT, _NOT_FOUND = 409, 404
_RETRY_SECONDS = 1.0


def volume_for(claim: Object, directory: Path) -> Object:
    """The volume to create for a claim."""
    meta, spec = claim["metadata"], claim["spec"]
    name = f"pvc-{meta['uid']}"
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {
            "name": name,
            "annotations": {_PROVISIONED_BY: meta["annotations"][_PROVISIONER_ANNOTATION]},
        },
        "spec": {
            "capacity": {"storage": spec["resources"]["requests"]["storage"]},
            "accessModes": spec["accessModes"],
            "persistentVolumeReclaimPolicy": "Delete",
            "storageClassName": STORAGE_CLASS,
            "hostPath": {"path": str(directory / name), "type": "DirectoryOrCreate"},
            "claimRef": {
                "apiVersion": "v1",
                "kind": "PersistentVolumeClaim",
                "namespace": meta["namespace"],
                "name": meta["name"],
                "uid": meta["uid"],
            },
        },
    }


class Provisioner:
    """Makes volumes for claims that wait and deletes those whose claim is gone."""

    def __init__(self, api: Api, directory: Path) -> None:
        self._api, self._directory = api, directory
        self._work: asyncio.Queue[Object] = asyncio.Queue()

    def follow(self, claims: Watch, volumes: Watch) -> None:
        """Takes part in both watches."""
        for watch in (claims, volumes):
            watch.on_change(lambda obj, exists: self._work.put_nowait(obj) if exists else None)

    async def run(self) -> None:
        """Works until cancelled."""
        while True:
            obj = await self._work.get()
            try:
                if "claimRef" in obj["spec"]:
                    await self._release(obj)
                elif "accessModes" in obj["spec"]:
                    await self._provision(obj)
            except (ApiError, *UNREACHABLE) as error:
                if not (isinstance(error, ApiError) and error.status in (_CONFLICT, _NOT_FOUND)):
                    _log.warning("volume %s: %s", obj["metadata"]["name"], error)
                    asyncio.get_running_loop().call_later(_RETRY_SECONDS, self._work.put_nowait, obj)

    async def _provision(self, claim: Object) -> None:
        waiting = claim["status"].get("phase") == "Pending" and not claim["spec"].get("volumeName")
        ours = claim["spec"].get("storageClassName") == STORAGE_CLASS
        # The control plane writes the annotation once it wants a volume from outside.
        wanted = _PROVISIONER_ANNOTATION in claim["metadata"].get("annotations", {})
        if waiting and ours and wanted:
            volume = volume_for(claim, self._directory)
            path = Path(volume["spec"]["hostPath"]["path"])
            await asyncio.to_thread(_make_directory, path)
            await self._api.create("/api/v1/persistentvolumes", volume)

    async def _release(self, volume: Object) -> None:
        ours = _PROVISIONED_BY in volume["metadata"].get("annotations", {})
        if ours and volume["status"].get("phase") == "Released":
            path = Path(volume["spec"]["hostPath"]["path"])
            await asyncio.to_thread(shutil.rmtree, path, ignore_errors=True)
            await self._api.delete(f"/api/v1/persistentvolumes/{volume['metadata']['name']}")


def _make_directory(path: Path) -> None:
    path.mkdir(parents=True, exist_ok=True)
    path.chmod(0o777)
