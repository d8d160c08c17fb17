"""Probes and life-cycle hooks: actions (HTTP, TCP, command) and the counting of their results."""

import asyncio
import contextlib
import dataclasses
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import aiohttp

Execute = Callable[[list[str]], Awaitable[tuple[int, str]]]
"""Runs a command in the container; gives its exit code and output."""
_MESSAGE_CHARACTERS = 400


@dataclasses.dataclass(frozen=True, kw_only=True)
class Target:
    """What an action acts upon."""

    address: str
    ports: Mapping[str, int]
    """The container's named ports."""
    http: aiohttp.ClientSession
    execute: Execute

    def port(self, port: int | str) -> int:
        """The number of a port given by number or name."""
        return port if isinstance(port, int) else self.ports[port]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Counter:
    """Turns single results into verdicts: a verdict changes after so many equal results in a row."""

    success_threshold: int
    failure_threshold: int
    verdict: bool | None = None
    """None until there is one."""
    run: int = 0
    last: bool | None = None

    def after(self, result: bool) -> "Counter":
        """The counter after one more result."""
        run = self.run + 1 if result == self.last else 1
        threshold = self.success_threshold if result else self.failure_threshold
        verdict = result if run >= threshold else self.verdict
        return dataclasses.replace(self, verdict=verdict, run=run, last=result)


async def watch(
    probe: Mapping[str, Any],
    target: Target,
    on_failure: Callable[[str], None],
    on_verdict: Callable[[bool], None],
) -> None:
    """Probes until cancelled.

    Args:
        probe: startup, readiness or liveness probe of a container.
        target: the container.
        on_failure: told the reason of each single failure.
        on_verdict: told the verdict after each result, once there is one.
    """
    await asyncio.sleep(probe.get("initialDelaySeconds", 0))
    counter = Counter(
        success_threshold=probe.get("successThreshold", 1), failure_threshold=probe.get("failureThreshold", 3)
    )
    while True:
        healthy, message = await act(probe, target, limit=probe.get("timeoutSeconds", 1))
        if not healthy:
            on_failure(message)
        counter = counter.after(healthy)
        if counter.verdict is not None:
            on_verdict(counter.verdict)
        await asyncio.sleep(probe.get("periodSeconds", 10))


async def act(action: Mapping[str, Any], target: Target, limit: float | None) -> tuple[bool, str]:
    """Performs a probe's or hook's action; gives whether it succeeded and what was wrong."""
    try:
        async with asyncio.timeout(limit):
            if "httpGet" in action:
                return await _get(action["httpGet"], target)
            if "tcpSocket" in action:
                host, port = action["tcpSocket"].get("host"), target.port(action["tcpSocket"]["port"])
                _, writer = await asyncio.open_connection(host or target.address, port)
                writer.close()
                return True, ""
            if "exec" in action:
                code, output = await target.execute(action["exec"]["command"])
                return code == 0, output[:_MESSAGE_CHARACTERS]
            if "sleep" in action:
                await asyncio.sleep(action["sleep"]["seconds"])
                return True, ""
            return False, f"{', '.join(action)} is not supported by this node"
    except TimeoutError:
        return False, f"no answer within {limit} s"
    except (OSError, aiohttp.ClientError, KeyError) as error:
        return False, f"{type(error).__name__}: {error}"


async def _get(action: Mapping[str, Any], target: Target) -> tuple[bool, str]:
    scheme = action.get("scheme", "HTTP").lower()
    host = action.get("host") or target.address
    url = f"{scheme}://{host}:{target.port(action['port'])}/{action.get('path', '').lstrip('/')}"
    headers = {header["name"]: header["value"] for header in action.get("httpHeaders", [])}
    async with target.http.get(url, headers=headers, ssl=False, allow_redirects=False) as response:
        if 200 <= response.status < 400:
            return True, ""
        text = ""
        with contextlib.suppress(UnicodeDecodeError):
            text = (await response.text())[:_MESSAGE_CHARACTERS]
        return False, f"HTTP probe failed with statuscode: {response.status} {text}".rstrip()
