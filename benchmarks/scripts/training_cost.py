"""Run a workload and tell what its training cost, without what it evaluates and what came before it."""

import contextlib
import importlib
import logging
import os
import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from cra_trainer import Session
from cra_trainer.data import MapDataset
from cra_trainer.workloads import images


def clocks() -> tuple[float, float]:
    """Seconds by the clock on the wall, and of this process's CPU time."""
    return time.perf_counter(), time.process_time()


def main(module: str, environ: Mapping[str, str], count: bool) -> dict[str, float]:
    """Run a workload in this process, which is good for one run.

    Args:
        module: The workload's module.
        environ: What a pod of its job would find in its environment.
        count: Whether to count floating-point operations, forward and backward, which takes time, instead of
            time.

    Returns:
        ``flops``, or ``seconds`` by the clock and ``cpu_seconds`` of one thread.
    """
    os.environ.update(environ)
    torch.set_num_threads(1)
    # The workload's own lines are not this benchmark's.
    logging.getLogger().addHandler(logging.NullHandler())
    evaluate, prepare = images.evaluate, Session.prepare
    started = [0.0, 0.0]
    counter, flops = FlopCounterMode(display=False), 0

    def prepare_then_start(self: Session, *arguments: Any, **extras: Any) -> Any:
        prepared = prepare(self, *arguments, **extras)
        started[:] = clocks()
        return prepared

    def evaluate_apart(session: Session, model: nn.Module, test: MapDataset, classes: list[str]) -> None:
        nonlocal flops
        before = clocks()
        apart = FlopCounterMode(display=False)
        with apart if count else contextlib.nullcontext():
            evaluate(session, model, test, classes)
        flops -= apart.get_total_flops()
        # What an evaluation took is as if the training had begun that much later.
        started[:] = [s + (now - then) for s, now, then in zip(started, clocks(), before, strict=True)]
        ended[:] = clocks()

    ended = [0.0, 0.0]
    images.evaluate, Session.prepare = evaluate_apart, prepare_then_start  # type: ignore[method-assign]
    with counter if count else contextlib.nullcontext():
        importlib.import_module(module).main()
    if count:
        return {"flops": float(counter.get_total_flops() + flops)}
    return {"seconds": ended[0] - started[0], "cpu_seconds": ended[1] - started[1]}
