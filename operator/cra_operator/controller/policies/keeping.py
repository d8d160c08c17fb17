"""What was learned online, as the data of a ConfigMap and back.

Tensors are safetensors beside an index that has, for each policy, their SHA-256 and that of the shipped
weights from which they grew: they are corrections of these and mean nothing to others. A ConfigMap can be
written by people, so whatever does not check out is refused and says why.
"""

from __future__ import annotations

import hashlib
import json
from base64 import b64decode, b64encode
from collections.abc import Mapping
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from cra_operator.controller.policies.online import Online
from cra_operator.controller.policies.store import digest

_INDEX = "index.json"


def pack(learned: Mapping[str, Online]) -> dict[str, dict[str, str]]:
    """Fields of a ConfigMap that hold what policies have learned, by their names."""
    index, files = {}, {}
    for name, online in learned.items():
        raw = save({key: value.astype(np.float32) for key, value in online.tensors().items()})
        index[name] = {"sha256": hashlib.sha256(raw).hexdigest(), "shipped": digest(name)}
        files[_file(name)] = b64encode(raw).decode()
    return {"data": {_INDEX: json.dumps(index, indent=2)}, "binaryData": files}


def unpack(found: Mapping[str, Any], learned: Mapping[str, Online]) -> dict[str, str]:
    """Let policies go on from what a ConfigMap holds.

    Args:
        found: The ConfigMap.
        learned: The policies that learn; those without usable data stay as they are.

    Returns:
        By policy, why its data are not used; nothing of those that have none.
    """
    files = found.get("binaryData") or {}
    refused = {}
    try:
        index = json.loads((found.get("data") or {}).get(_INDEX, "{}"))
        entries = {name: index[name] for name in learned if name in index}
    except (ValueError, TypeError) as error:
        return dict.fromkeys(learned, f"{_INDEX} cannot be read: {error}")
    for name, entry in entries.items():
        try:
            learned[name].restore(_tensors(name, entry, files))
        except (KeyError, TypeError, ValueError, SafetensorError) as error:
            refused[name] = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
    return refused


def _tensors(name: str, entry: Mapping[str, str], files: Mapping[str, str]) -> dict[str, np.ndarray]:
    if entry["shipped"] != digest(name):
        raise ValueError("it grew from other weights than those that are shipped now")
    raw = b64decode(files[_file(name)], validate=True)
    if hashlib.sha256(raw).hexdigest() != entry["sha256"]:
        raise ValueError(f"{_file(name)} is not the file of {_INDEX}")
    return {key: value.astype(float) for key, value in load(raw).items()}


def _file(name: str) -> str:
    return f"{name}.safetensors"
