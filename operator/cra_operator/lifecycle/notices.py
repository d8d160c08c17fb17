"""Settings that this release accepts but does not act on: said aloud, never silently ignored."""

from __future__ import annotations

from cra_operator.api import JobSpec
from cra_operator.sizing import gpus_per_worker


def not_effective(spec: JobSpec) -> tuple[str, ...]:
    """One phrase for each setting without effect: the field, and what happens instead."""
    scaling = spec.scaling
    phrases = []
    if isinstance(scaling.gpus_per_worker, str) and not scaling.gpus_per_worker.isdigit():
        phrases.append(f"the range of scaling.gpusPerWorker (every pod gets {gpus_per_worker(scaling)})")
    return tuple(phrases)
