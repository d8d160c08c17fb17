"""Which addresses stand behind a service: services and their EndpointSlices, joined, always as of the last
event."""

import dataclasses
from collections.abc import Iterator

from .api import Object
from .watch import Watch

_SERVICE_NAME = "kubernetes.io/service-name"
Key = tuple[str, str]
"""Namespace and name of a service."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Endpoint:
    """One address behind a service that takes traffic."""

    address: str
    hostname: str
    ports: dict[str, int]
    """By port name; the empty name where a service has a single nameless port."""


class Endpoints:
    """All services of the cluster with what stands behind them."""

    def __init__(self) -> None:
        self.services: dict[Key, Object] = {}
        self._slices: dict[Key, dict[str, Object]] = {}

    def follow(self, services: Watch, slices: Watch) -> None:
        """Takes part in both watches."""
        services.on_change(self._on_service)
        slices.on_change(self._on_slice)

    def _on_service(self, service: Object, exists: bool) -> None:
        key = (service["metadata"]["namespace"], service["metadata"]["name"])
        if exists:
            self.services[key] = service
        elif self.services.get(key, service)["metadata"]["uid"] == service["metadata"]["uid"]:
            self.services.pop(key, None)

    def _on_slice(self, piece: Object, exists: bool) -> None:
        meta = piece["metadata"]
        key = (meta["namespace"], meta.get("labels", {}).get(_SERVICE_NAME, ""))
        pieces = self._slices.setdefault(key, {})
        if exists:
            pieces[meta["uid"]] = piece
        else:
            pieces.pop(meta["uid"], None)

    def behind(self, key: Key) -> Iterator[Endpoint]:
        """The ready endpoints of a service.

        For services that publish addresses before they are ready, the control plane marks them as ready.
        """
        for piece in self._slices.get(key, {}).values():
            ports = {port.get("name") or "": port["port"] for port in piece.get("ports") or []}
            for endpoint in piece.get("endpoints") or []:
                if endpoint.get("conditions", {}).get("ready") is not False:
                    for address in endpoint["addresses"]:
                        yield Endpoint(address=address, hostname=endpoint.get("hostname", ""), ports=ports)
