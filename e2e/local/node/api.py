"""A thin client of the Kubernetes API: plain dictionaries over one HTTP session.

The agent reads and writes statuses as they are on the wire; typed models would only be taken apart again.
"""

import asyncio
import base64
import json
import ssl
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeAlias

import aiohttp
import yaml

Object: TypeAlias = dict[str, Any]
"""A Kubernetes object as JSON."""

STRATEGIC_MERGE = "application/strategic-merge-patch+json"
_TIMEOUT = aiohttp.ClientTimeout(total=30)


class ApiError(Exception):
    """The API server refused a request."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status


UNREACHABLE = (aiohttp.ClientError, asyncio.TimeoutError, OSError)
"""What a request raises when the API server cannot be reached."""


class Api:
    """Requests to one API server; use as an asynchronous context manager."""

    def __init__(self, server: str, tls: ssl.SSLContext) -> None:
        self._server = server
        self._tls = tls
        self._session: aiohttp.ClientSession | None = None

    @classmethod
    def from_kubeconfig(cls, path: Path) -> "Api":
        """Uses the current context of a kubeconfig with a client certificate, inline or by path."""
        config = yaml.safe_load(path.read_text())
        entries = {
            kind: {e["name"]: e[kind[:-1]] for e in config[kind]}
            for kind in ("contexts", "clusters", "users")
        }
        context = entries["contexts"][config["current-context"]]
        cluster, user = entries["clusters"][context["cluster"]], entries["users"][context["user"]]
        with tempfile.TemporaryDirectory() as folder:

            def file(source: Mapping[str, str], key: str) -> str:
                if key in source:
                    return source[key]
                inline = Path(folder) / key
                inline.write_bytes(base64.b64decode(source[f"{key}-data"]))
                return str(inline)

            tls = ssl.create_default_context(cafile=file(cluster, "certificate-authority"))
            tls.load_cert_chain(file(user, "client-certificate"), file(user, "client-key"))
        return cls(cluster["server"], tls)

    async def __aenter__(self) -> "Api":
        connector = aiohttp.TCPConnector(ssl=self._tls, limit=0)
        self._session = aiohttp.ClientSession(self._server, connector=connector, timeout=_TIMEOUT)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._session is not None
        await self._session.close()

    async def get(self, path: str, **query: str) -> Object:
        """Reads an object or a list.

        Raises:
            ApiError: the server refuses; `status` 404 where there is no such object.
        """
        return await self._request("GET", path, query=query)

    async def create(self, path: str, body: Object) -> Object:
        """Creates an object in the collection at `path`, or calls a subresource."""
        return await self._request("POST", path, body)

    async def replace(self, path: str, body: Object) -> Object:
        """Replaces an object."""
        return await self._request("PUT", path, body)

    async def patch(self, path: str, body: Object) -> Object:
        """Changes an object by strategic merge."""
        return await self._request("PATCH", path, body, {"Content-Type": STRATEGIC_MERGE})

    async def delete(self, path: str, body: Object | None = None) -> Object:
        """Deletes an object, with `DeleteOptions` as body."""
        return await self._request("DELETE", path, body)

    @asynccontextmanager
    async def watch(self, path: str, query: Mapping[str, str]) -> AsyncIterator[AsyncIterator[Object]]:
        """Opens a watch; gives an iterator over its events, which ends when the server closes the stream."""
        assert self._session is not None
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10)
        parameters = {"watch": "1", "allowWatchBookmarks": "true", **query}
        async with self._session.get(path, params=parameters, timeout=timeout) as response:
            await _raise_for_status(response)

            async def events() -> AsyncIterator[Object]:
                rest = b""
                async for chunk in response.content.iter_any():
                    *lines, rest = (rest + chunk).split(b"\n")
                    for line in lines:
                        yield json.loads(line)

            yield events()

    async def _request(
        self,
        method: str,
        path: str,
        body: Object | None = None,
        headers: Mapping[str, str] | None = None,
        query: Mapping[str, str] | None = None,
    ) -> Object:
        assert self._session is not None
        async with self._session.request(method, path, params=query, json=body, headers=headers) as response:
            await _raise_for_status(response)
            answer: Object = await response.json()
            return answer


async def _raise_for_status(response: aiohttp.ClientResponse) -> None:
    if response.status >= 400:
        try:
            message = (await response.json())["message"]
        except (aiohttp.ContentTypeError, json.JSONDecodeError, KeyError):
            message = await response.text()
        raise ApiError(response.status, message)
