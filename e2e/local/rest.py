"""A small blocking HTTP client for init: probes of components, and the objects that a cluster starts with.

Init imports nothing that takes long to import, as every component waits for it.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import ssl
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from e2e.local.layout import APISERVER_PORT, Layout

_TIMEOUT = 5.0


class ApiError(Exception):
    """The API server refused a request; `status` is the HTTP code."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status


def client_context(layout: Layout, client: str, authority: str) -> ssl.SSLContext:
    """TLS settings that present a client certificate and trust one authority."""
    context = ssl.create_default_context(cafile=str(layout.pki / f"{authority}.crt"))
    context.load_cert_chain(layout.pki / f"{client}.crt", layout.pki / f"{client}.key")
    return context


def answers(url: str, context: ssl.SSLContext | None) -> bool:
    """Whether a GET of `url` gives 200 within a few seconds."""
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port
    if context is None:
        connection = http.client.HTTPConnection(host, port, timeout=_TIMEOUT)
    else:
        connection = http.client.HTTPSConnection(host, port, timeout=_TIMEOUT, context=context)
    try:
        connection.request("GET", parts.path)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


class Api:
    """The API server as admin; a connection per request, so threads and its restarts do not matter."""

    def __init__(self, layout: Layout) -> None:
        self._context = client_context(layout, "admin", "ca")

    def get(self, path: str) -> dict[str, Any]:
        """Read an object or a list.

        Raises:
            ApiError: The API server refuses.
            OSError: It cannot be reached.
        """
        return self._request("GET", path, None, {})

    def apply(self, path: str, manifest: Mapping[str, Any]) -> None:
        """Create or bring up to date one object by server-side apply.

        Raises:
            ApiError: The API server refuses.
            OSError: It cannot be reached.
        """
        headers = {"Content-Type": "application/apply-patch+yaml"}
        self._request("PATCH", f"{path}?fieldManager=cra-local&force=true", manifest, headers)

    def _request(
        self, method: str, path: str, body: Mapping[str, Any] | None, headers: Mapping[str, str]
    ) -> dict[str, Any]:
        connection = http.client.HTTPSConnection(
            "127.0.0.1", APISERVER_PORT, timeout=_TIMEOUT, context=self._context
        )
        with contextlib.closing(connection):
            connection.request(method, path, None if body is None else json.dumps(body), dict(headers))
            response = connection.getresponse()
            content = response.read()
        if response.status >= 400:
            raise ApiError(response.status, content.decode(errors="replace"))
        answer: dict[str, Any] = json.loads(content)
        return answer
