"""Good manifests, small edits to them, and what the API server says to the result."""

import copy
import json
from collections.abc import Mapping
from typing import Any

from kubernetes import client
from kubernetes.client.exceptions import ApiException

Manifest = dict[str, Any]

REMOVED: Any = object()
"""As the value of an edit: the field is taken away."""

BUILT_IN: Manifest = {
    "apiVersion": "cra.dev/v1alpha1",
    "kind": "CRATrainingJob",
    "metadata": {"name": "built-in"},
    "spec": {"workload": {"name": "digits-cnn"}, "scaling": {"minGPUs": 2, "maxGPUs": 8}},
}
OWN_POD: Manifest = {
    "apiVersion": "cra.dev/v1alpha1",
    "kind": "CRATrainingJob",
    "metadata": {"name": "own-pod"},
    "spec": {
        "template": {
            "metadata": {"labels": {"team": "vision"}},
            "spec": {
                "nodeSelector": {"zone": "a"},
                "containers": [
                    {"name": "trainer", "image": "cra-trainer:0.1.0", "command": ["python", "train.py"]},
                    {"name": "sidecar", "image": "cra-trainer:0.1.0"},
                ],
            },
        },
        "scaling": {"maxGPUs": 8},
    },
}


def edited(manifest: Manifest, edits: Mapping[str, Any]) -> Manifest:
    """A copy of the manifest with values put at dotted paths (numbers index lists), or taken away."""
    result = copy.deepcopy(manifest)
    for path, value in edits.items():
        *parents, last = path.split(".")
        node: Any = result
        for key in parents:
            node = node[int(key)] if isinstance(node, list) else node.setdefault(key, {})
        if value is REMOVED:
            del node[last]
        elif isinstance(node, list):
            node[int(last)] = value
        else:
            node[last] = value
    return result


class JobApi:
    """CRATrainingJobs of one namespace over one connection; nothing is stored unless `keep` says so."""

    def __init__(self, connection: client.ApiClient, namespace: str) -> None:
        self._api: Any = client.CustomObjectsApi(connection)
        self._place = {
            "group": "cra.dev",
            "version": "v1alpha1",
            "namespace": namespace,
            "plural": "cratrainingjobs",
        }

    def create(self, manifest: Manifest, *, keep: bool = False, validation: str = "Strict") -> Manifest:
        """Create, as kubectl does by default: with fields that are not in the schema refused."""
        return dict(
            self._api.create_namespaced_custom_object(
                **self._place, body=manifest, field_validation=validation, **_dry(keep)
            )
        )

    def replace(self, manifest: Manifest, *, keep: bool = False) -> Manifest:
        """Replace a stored job by an edited one."""
        return dict(
            self._api.replace_namespaced_custom_object(
                **self._place,
                name=manifest["metadata"]["name"],
                body=manifest,
                field_validation="Strict",
                **_dry(keep),
            )
        )

    def replace_status(self, manifest: Manifest, *, keep: bool = False) -> Manifest:
        """Replace a stored job's status."""
        return dict(
            self._api.replace_namespaced_custom_object_status(
                **self._place,
                name=manifest["metadata"]["name"],
                body=manifest,
                field_validation="Strict",
                **_dry(keep),
            )
        )

    def scale(self, name: str, replicas: int) -> Manifest:
        """Set the size through /scale, as `kubectl scale` does, without keeping it."""
        return dict(
            self._api.patch_namespaced_custom_object_scale(
                **self._place, name=name, body={"spec": {"replicas": replicas}}, **_dry(False)
            )
        )


def complaints(refused: ApiException) -> list[str]:
    """What the API server found wrong: one text for each field, `path: message`."""
    status = json.loads(refused.body or "{}")
    causes = (status.get("details") or {}).get("causes") or []
    found = [f"{cause.get('field', '')}: {cause['message']}" for cause in causes]
    # A request with a malformed field gets this in addition, as the rules across fields are then not run.
    return [text for text in found if "some validation rules were not checked" not in text] or [
        status["message"]
    ]


def _dry(keep: bool) -> dict[str, str]:
    return {} if keep else {"dry_run": "All"}
