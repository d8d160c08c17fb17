"""What was learned, as files: tensors in safetensors beside an index that says what they are, and checked.

`weights/index.json` has, for each policy, the file, its SHA-256 and the rule that was trained on; the card
`weights/README.md` tells how the files came about. A file that is not the one of the index is refused:
weights decide over a cluster, so they are treated as code.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from cra_operator.controller.policies.goodput import Preset
from cra_operator.controller.policies.network import SHAPES, Weights
from cra_operator.controller.policy import Floats


class WeightsError(ValueError):
    """Weights cannot be used; the message names the file and the fix."""


@dataclass(frozen=True, kw_only=True)
class Learned:
    """A trained network.

    Attributes:
        weights: Its parameters.
        preset: The rule that it was trained on top of.
        least_load: The idlest cluster of training (`tokens.load_of`).
        most_load: The busiest.
    """

    weights: Weights
    preset: Preset
    least_load: float
    most_load: float


def shipped() -> Traversable:
    """The folder of the weights that come with the package."""
    return files(__package__) / "weights"


def load_tensors(name: str, folder: Traversable | None = None) -> tuple[dict[str, Floats], dict[str, float]]:
    """Tensors of a policy and the numbers that the index has for it.

    Args:
        name: The policy's.
        folder: Where; None takes those that are shipped.

    Raises:
        WeightsError: There are none, or the file is not the one that the index means.
    """
    folder = folder or shipped()
    try:
        index = json.loads((folder / "index.json").read_text())
        entry: Mapping[str, object] = index[name]
        raw = (folder / str(entry["file"])).read_bytes()
    except (OSError, KeyError, ValueError) as error:
        raise WeightsError(f"there are no weights of policy {name!r} in {folder}: {error!r}") from error
    found = hashlib.sha256(raw).hexdigest()
    if found != entry["sha256"]:
        raise WeightsError(
            f"{folder / str(entry['file'])} is not the file of the index (SHA-256 {found[:12]}, not "
            f"{str(entry['sha256'])[:12]}); install the package anew or train again"
        )
    try:
        tensors = {key: value.astype(float) for key, value in load(raw).items()}
    except SafetensorError as error:
        raise WeightsError(f"{folder / str(entry['file'])} is no safetensors file: {error}") from error
    numbers = entry["numbers"]
    assert isinstance(numbers, dict)
    return tensors, {key: float(value) for key, value in numbers.items()}


def digest(name: str) -> str:
    """SHA-256 of the weights of a policy that come with the package."""
    found = json.loads((shipped() / "index.json").read_text())[name]["sha256"]
    return str(found)


def load_network(name: str, folder: Traversable | None = None) -> Learned:
    """The network of an attention policy.

    Args:
        name: The policy's.
        folder: As above.

    Raises:
        WeightsError: As above, or the tensors are not those of this network.
    """
    tensors, numbers = load_tensors(name, folder)
    wrong = {key for key in SHAPES if key not in tensors or tensors[key].shape != SHAPES[key]}
    if wrong:
        raise WeightsError(
            f"weights of policy {name!r}: {', '.join(sorted(wrong))} missing or of another shape"
        )
    return Learned(
        weights=Weights(**{key: tensors[key] for key in SHAPES}),
        preset=Preset(
            favour=numbers["favour"], concavity=numbers["concavity"], damping=numbers["damping"],
            lost=numbers["lost"],
        ),
        least_load=numbers["least_load"],
        most_load=numbers["most_load"],
    )  # fmt: skip


def write(folder: Path, name: str, tensors: Mapping[str, Floats], numbers: Mapping[str, float]) -> str:
    """Put a policy's tensors and numbers into a folder and its index; returns the SHA-256 of the file."""
    raw = save({key: np.ascontiguousarray(value, dtype=np.float32) for key, value in tensors.items()})
    folder.mkdir(parents=True, exist_ok=True)
    index_file, file = folder / "index.json", f"{name}.safetensors"
    index = json.loads(index_file.read_text()) if index_file.exists() else {}
    digest = hashlib.sha256(raw).hexdigest()
    index[name] = {"file": file, "sha256": digest, "numbers": dict(numbers)}
    (folder / file).write_bytes(raw)
    index_file.write_text(json.dumps(dict(sorted(index.items())), indent=2) + "\n")
    return digest


def numbers_of(preset: Preset, least_load: float, most_load: float) -> dict[str, float]:
    """The numbers of a network, as `load_network` reads them."""
    return {
        "favour": preset.favour,
        "concavity": preset.concavity,
        "damping": preset.damping,
        "lost": preset.lost,
        "least_load": least_load,
        "most_load": most_load,
    }
