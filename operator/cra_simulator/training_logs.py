"""Learning curves from the logs that training writes for TensorBoard."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from cra_operator.controller.policy import Floats
from cra_simulator.errors import DataError


def read_curves(folders: Iterable[Path], tag: str) -> dict[str, tuple[Floats, Floats]]:
    """Read one value over all runs below some folders.

    Args:
        folders: Where runs have their logs, at any depth.
        tag: Which value.

    Returns:
        Steps and values, [N] each, by the run's folder.

    Raises:
        DataError: TensorBoard is not installed, there are no logs, or none has the value.
    """
    try:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    except ImportError:
        raise DataError("learning curves need TensorBoard: pip install 'cra[learn]'") from None
    found: dict[str, tuple[Floats, Floats]] = {}
    tags: set[str] = set()
    for folder in folders:
        runs = sorted({path.parent for path in folder.glob("**/events.out.tfevents.*")})
        if not runs:
            raise DataError(f"{folder}: there are no TensorBoard logs")
        for run in runs:
            events = EventAccumulator(str(run), size_guidance={"scalars": 0}).Reload()
            tags.update(events.Tags()["scalars"])
            if tag in events.Tags()["scalars"]:
                scalars = events.Scalars(tag)
                steps, values = ([getattr(s, name) for s in scalars] for name in ("step", "value"))
                found[run.name] = np.array(steps, dtype=float), np.array(values)
    if not found:
        raise DataError(f"no run has {tag!r}; there are {', '.join(sorted(tags))}")
    return found
