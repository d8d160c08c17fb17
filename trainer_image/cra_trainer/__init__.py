"""Attention-weighted data-parallel training: what runs in the pods of a CRATrainingJob.

``cra_trainer.init()`` gives a script its session; `cra_trainer.session` is the contract and shows a whole
script. The names below load on first use, because the launcher must answer signals and probes before torch is
imported.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cra_trainer.evaluation import Classification
    from cra_trainer.optimizers import make_optimizer
    from cra_trainer.resources import measure_blocks
    from cra_trainer.session import Session, SessionError, init

__all__ = ["Classification", "Session", "SessionError", "init", "make_optimizer", "measure_blocks"]

_HOMES = {
    "Classification": "cra_trainer.evaluation",
    "Session": "cra_trainer.session",
    "SessionError": "cra_trainer.session",
    "init": "cra_trainer.session",
    "make_optimizer": "cra_trainer.optimizers",
    "measure_blocks": "cra_trainer.resources",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)
