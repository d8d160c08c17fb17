"""What nodes serve: the kubelet API (logs and health) over TLS, and the GPU exporter.

One server answers for all nodes, as the API server names the pod in full. Of the kubelet API there is what
`kubectl logs` needs; no exec, attach, port-forward, metrics or statistics.
"""

import datetime as dt
import ssl
from collections.abc import Callable, Mapping

from aiohttp import web

from . import gpu
from .clock import parse
from .config import AgentConfig
from .logs import ContainerLog, render, tail
from .nodes import KUBELET_PORT, Node
from .pod import Pod

EXPORTER_PORT = 9400
_FindPod = Callable[[str, str], Pod | None]


async def serve_kubelet(config: AgentConfig, find: _FindPod) -> None:
    """Serves the kubelet API on all addresses; `find` gives a pod by namespace and name."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(config.serving_cert, config.serving_key)
    tls.load_verify_locations(config.client_ca)
    tls.verify_mode = ssl.CERT_REQUIRED

    async def health(_: web.Request) -> web.Response:
        return web.Response(text="ok")

    async def logs(request: web.Request) -> web.StreamResponse:
        return await _logs(request, find)

    app = web.Application()
    app.router.add_get("/healthz", health)
    app.router.add_get("/containerLogs/{namespace}/{pod}/{container}", logs)
    await _listen(app, "0.0.0.0", KUBELET_PORT, tls)


async def _logs(request: web.Request, find: _FindPod) -> web.StreamResponse:
    path, query = request.match_info, request.query
    pod = find(path["namespace"], path["pod"])
    if pod is None:
        raise web.HTTPNotFound(text=f'pod "{path["pod"]}" is not on this node')
    container = pod.containers.get(path["container"])
    if container is None:
        raise web.HTTPNotFound(text=f'container "{path["container"]}" is not in pod "{path["pod"]}"')
    previous = query.get("previous") == "true"
    if len(container.logs) < (2 if previous else 1):
        what = "previous terminated container" if previous else "container"
        text = f'{what} "{container.name}" in pod "{path["pod"]}" is not available: it has not run'
        raise web.HTTPBadRequest(text=text)
    log = container.logs[-2 if previous else -1]
    response = web.StreamResponse(headers={"Content-Type": "text/plain"})
    await response.prepare(request)
    await _send(response, log, query)
    await response.write_eof()
    return response


async def _send(response: web.StreamResponse, log: ContainerLog, query: Mapping[str, str]) -> None:
    since = _since(query)
    timestamps = query.get("timestamps") == "true"
    left = int(query.get("limitBytes", -1))
    records = log.path.read_bytes().splitlines()
    already = len(records)
    if since:
        records = [record for record in records if parse(record.partition(b" ")[0].decode()) >= since]
    if "tailLines" in query:
        records = tail(records, int(query["tailLines"]))
    text = b"".join(render(record, timestamps=timestamps) for record in records)
    await response.write(text if left < 0 else text[:left])
    left -= len(text)
    if query.get("follow") == "true":
        async for record in log.follow():
            if already > 0:
                already -= 1
                continue
            await response.write(render(record, timestamps=timestamps))


def _since(query: Mapping[str, str]) -> dt.datetime | None:
    if "sinceSeconds" in query:
        return dt.datetime.now(dt.UTC) - dt.timedelta(seconds=int(query["sinceSeconds"]))
    return parse(query["sinceTime"]) if "sinceTime" in query else None


async def serve_exporter(node: Node, find_uid: Callable[[str], Pod | None]) -> None:
    """Serves the metrics of a node's GPUs on its own address; `find_uid` gives a pod by uid."""

    async def metrics(_: web.Request) -> web.Response:
        text = gpu.render(readings(node, find_uid))
        return web.Response(text=text, headers={"Content-Type": "text/plain; version=0.0.4"})

    app = web.Application()
    app.router.add_get("/metrics", metrics)
    await _listen(app, node.config.ip, EXPORTER_PORT, None)


def readings(node: Node, find_uid: Callable[[str], Pod | None]) -> list[gpu.Reading]:
    """What the exporter of a node says at this moment."""
    if node.gpu_type is None:
        return []
    result = []
    for device in node.devices.all:
        uid, holder = node.devices.holder(device) or ("", None)
        pod = find_uid(uid)
        if holder is None or pod is None or pod.meter is None:
            result.append(gpu.Reading(device=device, node=node.config.name, kind=node.gpu_type))
            continue
        count = sum(1 for other in node.devices.all if (node.devices.holder(other) or ("",))[0] == uid)
        reading = gpu.Reading(
            device=device,
            node=node.config.name,
            kind=node.gpu_type,
            holder=holder,
            utilisation=pod.meter.utilisation,
            used_bytes=pod.meter.resident_bytes / count,
        )
        result.append(reading)
    return result


async def _listen(app: web.Application, address: str, port: int, tls: ssl.SSLContext | None) -> None:
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, address, port, ssl_context=tls).start()
