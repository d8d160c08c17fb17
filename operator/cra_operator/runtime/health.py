"""Health over HTTP: whether work gets done, not merely whether the event loop turns; and the metrics.

`/healthz` fails when jobs are due and nothing has been done for too long, or when the comparison with the
cluster is overdue: both mean that something hangs and a restart helps. An API server that is down does
neither, as a restart would not help. `/readyz` fails until the operator can act, or stands by to.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from aiohttp import web

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Probe = Callable[[], str | None]
"""Says what is wrong, or None."""


@asynccontextmanager
async def serve(
    *, health_port: int, metrics_port: int, alive: Probe, ready: Probe, metrics: Callable[[], bytes]
) -> AsyncIterator[None]:
    """Serve both ports while the context is open."""
    health = web.Application()
    health.add_routes([web.get("/healthz", _answer(alive)), web.get("/readyz", _answer(ready))])
    exposition = web.Application()
    exposition.add_routes([web.get("/metrics", _expose(metrics))])
    runners = []
    try:
        for application, port in ((health, health_port), (exposition, metrics_port)):
            runner = web.AppRunner(application, access_log=None, shutdown_timeout=1)
            runners.append(runner)
            await runner.setup()
            await web.TCPSite(runner, port=port).start()
        yield
    finally:
        for runner in runners:
            await runner.cleanup()


def _answer(probe: Probe) -> Handler:
    async def handle(request: web.Request) -> web.Response:
        trouble = probe()
        return web.Response(status=200 if trouble is None else 503, text=trouble or "ok")

    return handle


def _expose(render: Callable[[], bytes]) -> Handler:
    async def handle(request: web.Request) -> web.Response:
        return web.Response(
            body=render(), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}
        )

    return handle
