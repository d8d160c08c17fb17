"""The metrics and readiness endpoint of a process.

Training keeps its own state; when somebody asks, the session puts it into `Readings` and those are written
out. So a step pays next to nothing for being observable, and a number that has no value yet is absent instead
of zero. The server starts before anything slow (torch, data, peers), so that a pod answers from its first
second; ``/readyz`` says 200 only once the model is prepared and the group has formed.
"""

from __future__ import annotations

import socket
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

HELP = {
    "progress_ratio": "Part of the training that is done, 0 to 1",
    "epoch": "Epoch under way, from 0",
    "epochs": "Epochs to train",
    "step": "Steps taken",
    "trained_samples": "Samples that the group has trained so far, over all epochs",
    "loss": "Mean loss of the last step over the global batch",
    "eta_seconds": "Seconds until the training is done at the present rate",
    "samples_per_second": "Samples that all ranks train per second",
    "batch_size": "Samples of the next global batch",
    "learning_rate_factor": "What the learning rate was multiplied with in the last step, for its batch size",
    "noise_scale": "Gradient noise scale: the batch at which noise and gradient are of one size, in samples",
    "scale_invariant_steps": "Steps of size batchSize that the steps so far are worth",
    "goodput_samples_per_second": "Samples per second, each as what it is worth in a batch of batchSize",
    "settled": "1 when samples_per_second is that of shares which follow from measured speeds, else 0",
    "share_ratio": "Part of the global batch that this rank trains",
    "weight_ratio": "Attention weight of this rank, before its capability",
    "performance": "Performance P of this rank at the last report",
    "capability_samples_per_second": "Samples per second that this rank was measured to compute",
    "straggler": "1 when this rank is slow for good: slower than it was, or far behind; else 0",
    "memory_headroom_ratio": "Part of its memory that this rank has never used, 1 without a limit",
    "peak_memory_bytes": "Memory that this rank has held at its fullest: its GPU's, else the host's",
    "gpu_utilization_ratio": "Part of the last moments in which the rank's GPU ran any kernel, by NVML",
    "gpu_power_watts": "Power that the rank's GPU draws, by NVML",
    "gpu_temperature_celsius": "Temperature of the rank's GPU, by NVML",
    "allocator_seconds": "Part of the last step that this rank spent on the allocator",
    "step_seconds": "Duration of the last step",
    "compute_seconds": "Part of the last step until the last gradient was ready",
    "communication_seconds": "Part of the last step spent waiting for the reduction",
    "world_size": "Ranks of the group",
    "generation": "Generation of the group",
    "pause_seconds": "Pause of training when the group last changed, from step to step less one step",
    "resizes_total": "Times that the group changed",
    "checkpoint_step": "Step of the newest checkpoint",
    "checkpoint_timestamp_seconds": "When the newest checkpoint was written, in seconds since the epoch",
    "samples_total": "Samples that this rank has trained",
    "checkpoints_rejected_total": "Checkpoints that failed verification and were passed over",
    "checkpoint_failures_total": "Checkpoints that could not be written",
    "checkpoint_failing": "1 when the last checkpoint could not be written, else 0",
}


@dataclass(kw_only=True)
class Readings:
    """The latest numbers of this process; None is not exposed. Names are those of `HELP`."""

    rank: int
    world_size: int
    generation: int
    ready: bool = False
    samples_total: float = 0.0
    settled: bool | None = None
    share_ratio: float | None = None
    weight_ratio: float | None = None
    performance: float | None = None
    capability_samples_per_second: float | None = None
    straggler: float | None = None
    memory_headroom_ratio: float | None = None
    peak_memory_bytes: float | None = None
    gpu_utilization_ratio: float | None = None
    gpu_power_watts: float | None = None
    gpu_temperature_celsius: float | None = None
    allocator_seconds: float | None = None
    step_seconds: float | None = None
    compute_seconds: float | None = None
    communication_seconds: float | None = None
    progress_ratio: float | None = None
    epoch: int | None = None
    epochs: int | None = None
    step: int | None = None
    trained_samples: int | None = None
    loss: float | None = None
    eta_seconds: float | None = None
    samples_per_second: float | None = None
    goodput_samples_per_second: float | None = None
    batch_size: int | None = None
    learning_rate_factor: float | None = None
    noise_scale: float | None = None
    scale_invariant_steps: float | None = None
    checkpoint_step: int | None = None
    checkpoint_timestamp_seconds: float | None = None
    pause_seconds: float | None = None
    resizes_total: float = 0.0
    checkpoints_rejected_total: float | None = None
    checkpoint_failures_total: float | None = None
    checkpoint_failing: float | None = None


class _Exposition(Collector):
    """Turns readings into metrics at the moment of a scrape."""

    def __init__(self, readings: Readings) -> None:
        self._readings = readings

    def collect(self) -> Iterator[Metric]:
        for name, text in HELP.items():
            value = getattr(self._readings, name)
            if value is None:
                continue
            kind = CounterMetricFamily if name.endswith("_total") else GaugeMetricFamily
            family = kind(f"cra_trainer_{name}", text, labels=["rank"])
            family.add_metric([str(self._readings.rank)], float(value))
            yield family

    def describe(self) -> Iterator[Metric]:
        return iter(())


def exposition(readings: Readings) -> bytes:
    """The readings in the text format of Prometheus."""
    registry = CollectorRegistry()
    registry.register(_Exposition(readings))
    return generate_latest(registry)


def serve(
    port: int,
    *,
    metrics: Callable[[], bytes],
    ready: Callable[[], bool],
    allocation: Callable[[], bytes] | None = None,
    address: str = "0.0.0.0",
) -> ThreadingHTTPServer:
    """Serve /metrics, /allocation, /readyz and /healthz from a daemon thread until the process ends.

    Raises:
        OSError: The port is taken.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            if path == "/metrics":
                self._answer(200, metrics(), CONTENT_TYPE_LATEST)
            elif path == "/allocation" and allocation is not None:
                self._answer(200, allocation(), "application/json")
            elif path == "/readyz":
                self._answer(200, b"ready\n") if ready() else self._answer(503, b"preparing\n")
            elif path == "/healthz":
                self._answer(200, b"alive\n")
            else:
                self._answer(404, b"/metrics, /allocation, /readyz and /healthz are served here\n")

        def _answer(self, status: int, body: bytes, kind: str = "text/plain; charset=utf-8") -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Probes come every second; they are not worth a line each."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        address_family = socket.AF_INET6 if ":" in address else socket.AF_INET

        def handle_error(self, request: Any, client_address: Any) -> None:
            # A probe that no longer waits for the answer is nobody's error.
            if not isinstance(sys.exception(), ConnectionError):
                super().handle_error(request, client_address)

    server = Server((address, port), Handler)
    threading.Thread(target=server.serve_forever, name="cra-metrics", daemon=True).start()
    return server
