"""Curves of a training: TensorBoard event files beside the checkpoints, Weights & Biases where configured.

Rank 0 tells them. A step only puts a few numbers into a queue, about once a second; a thread imports what
writes them, which may take seconds, and waits for disks and networks. A place that cannot be written costs
its curves and a line in the log, never the training.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Protocol

from cra_trainer.config import Env, Tracking
from cra_trainer.storage import Storage

log = logging.getLogger("cra_trainer")

INTERVAL_SECONDS = 1.0
UPLOAD_SECONDS = 30.0
CLOSING_SECONDS = 20.0
FOLDER = "tensorboard"

Curves = Mapping[str, float]


class Sink(Protocol):
    """A place for curves."""

    def write(self, step: int, curves: Curves) -> None: ...

    def close(self) -> None: ...


class EventFiles:
    """TensorBoard event files in a directory, or under a URL; from `step` on they replace those before.

    Object stores cannot append: for them the file is made on the local disk, and put there whole each time.
    """

    def __init__(self, place: str, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._storage = Storage(place) if "://" in place else None
        self._local = tempfile.TemporaryDirectory(prefix="cra-") if self._storage else None
        directory = self._local.name if self._local else place
        self._writer = SummaryWriter(directory, purge_step=step, flush_secs=10)
        self._put = time.monotonic()

    def write(self, step: int, curves: Curves) -> None:
        for name, value in curves.items():
            self._writer.add_scalar(name, value, step)
        if time.monotonic() - self._put >= UPLOAD_SECONDS:
            self._upload()

    def _upload(self) -> None:
        self._put = time.monotonic()
        if self._storage is not None and self._local is not None:
            self._writer.flush()
            for file in Path(self._local.name).iterdir():
                self._storage.put(file.name, file.read_bytes())

    def close(self) -> None:
        self._upload()
        self._writer.close()
        if self._local is not None:
            self._local.cleanup()


class Wandb:
    """A run of a Weights & Biases project; its key comes from ``WANDB_API_KEY``."""

    def __init__(self, project: str) -> None:
        import wandb

        job = os.environ.get("CRA_JOB")
        # Runs of one job, which restarts may part, are grouped under its name.
        self._run = wandb.init(project=project, name=job, group=job, dir=tempfile.gettempdir())

    def write(self, step: int, curves: Curves) -> None:
        self._run.log(dict(curves), step=step)

    def close(self) -> None:
        self._run.finish()


class Tracker:
    """Writes curves in the background; on ranks other than 0, and with nowhere to write, it does nothing.

    Args:
        env: Which rank this is, and where its checkpoints are.
        settings: Where curves go.
    """

    def __init__(self, env: Env, settings: Tracking) -> None:
        self._places: dict[str, Callable[[int], Sink]] = {}
        directory, project = env.checkpoint_dir, settings.wandb_project
        if settings.tensorboard and directory is not None:
            self._places["TensorBoard"] = lambda step: EventFiles(f"{directory.rstrip('/')}/{FOLDER}", step)
        if project is not None and env.rank == 0:
            self._places["Weights & Biases"] = lambda _: Wandb(project)
        self._queue: queue.SimpleQueue[tuple[int, Curves] | None] = queue.SimpleQueue()
        self._last = time.monotonic()
        self._thread: threading.Thread | None = None

    @property
    def due(self) -> bool:
        """Whether somebody listens, and the last numbers are a second old."""
        return bool(self._places) and time.monotonic() - self._last >= INTERVAL_SECONDS

    def write(self, step: int, curves: Curves) -> None:
        """Write numbers at a step, by the names of their curves."""
        if not self._places:
            return
        self._last = time.monotonic()
        self._queue.put((step, dict(curves)))
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="cra-tracking", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Write no more, and wait a while until all is written."""
        self._places = {}
        if self._thread is None:
            return
        self._queue.put(None)
        self._thread.join(CLOSING_SECONDS)
        if self._thread.is_alive():
            log.warning("not all curves are written: their place does not answer")

    def _run(self) -> None:
        places, sinks = dict(self._places), dict[str, Sink]()
        while (item := self._queue.get()) is not None:
            step, curves = item
            for name in list(places):
                with _given_up(name, places):
                    if name not in sinks:
                        sinks[name] = places[name](step)
                    sinks[name].write(step, curves)
        for name in sinks.keys() & places.keys():
            with _given_up(name, places):
                sinks[name].close()


@contextlib.contextmanager
def _given_up(name: str, places: dict[str, Callable[[int], Sink]]) -> Iterator[None]:
    """Give a place up when it fails, with whatever its library raises."""
    try:
        yield
    except Exception as error:
        del places[name]
        log.warning("no more curves for %s: %s", name, error)
