"""The leader's end of the membership channel: one thread that every member of the training talks to.

The channel is apart from the collectives, so it works when they do not. A process that dies closes its
connection at that instant, whatever signal ended it; a machine that vanishes falls silent; a rank that hangs
says so itself, since a thread of its own reports how long the main one has been computing. Each is given up
at once, and the others are told to abort the collective that would otherwise wait for it.

Messages are lines of JSON. To the leader: hello, stand, leave, finish, beat. To a member: plan, abort,
dismissed, excluded, beat.
"""

from __future__ import annotations

import contextlib
import json
import logging
import selectors
import socket
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from cra_trainer.elastic.roster import Hello, Roster

log = logging.getLogger("cra_trainer")

BEAT_SECONDS = 1.0
SILENCE_SECONDS = 20.0
"""After so long without a beat a process, or its machine, is taken for gone."""
SLOWEST_STEP_SECONDS = 60.0
FIRST_STEP_SECONDS = 600.0
"""A first step may compile."""
PATIENCE = 20
"""A rank hangs when it computes so many times longer than its slowest step so far."""


def hangs(computing: float, slowest: float) -> bool:
    """Whether a rank that has been computing one step for so long will not come back."""
    return computing > (max(SLOWEST_STEP_SECONDS, PATIENCE * slowest) if slowest else FIRST_STEP_SECONDS)


class _Peer:
    """A connection from a member or newcomer."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.uid = ""
        self.heard = time.monotonic()
        self.unread = b""

    def lines(self) -> list[bytes] | None:
        """What has come in; None when the other end is closed."""
        try:
            data = self.connection.recv(65536)
        except OSError:
            return None
        self.heard = time.monotonic()
        *lines, self.unread = (self.unread + data).split(b"\n")
        return lines if data else None

    def send(self, kind: str, content: Mapping[str, Any]) -> None:
        """Who cannot be reached is found gone by the next read."""
        with contextlib.suppress(OSError):
            self.connection.sendall(encode(kind, content))


class Coordinator:
    """Keeps the roster and tells everybody what follows from it.

    Args:
        address: Where to listen.

    Attributes:
        port: Where it listens.
        change_wanted: Whether newcomers wait to be taken in at the next step.
    """

    def __init__(self, address: str) -> None:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._listener = socket.create_server((address, 0), family=family, backlog=1024)
        self.port: int = self._listener.getsockname()[1]
        self.change_wanted = False
        self._roster = Roster()
        self._peers: dict[str, _Peer] = {}
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        threading.Thread(target=self._run, name="cra-coordinator", daemon=True).start()

    def _run(self) -> None:
        beaten = time.monotonic()
        while True:
            for key, _ in self._selector.select(timeout=BEAT_SECONDS):
                if key.fileobj is self._listener:
                    connection, _ = self._listener.accept()
                    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    connection.settimeout(BEAT_SECONDS)
                    self._selector.register(connection, selectors.EVENT_READ, _Peer(connection))
                else:
                    self._hear(key.data)
            if time.monotonic() - beaten >= BEAT_SECONDS:
                beaten = time.monotonic()
                self._beat()
            self._act()

    def _hear(self, peer: _Peer) -> None:
        lines = peer.lines()
        if lines is None:
            self._lose(peer, "is gone")
            return
        for line in lines:
            message: dict[str, Any] = json.loads(line)
            self._take(peer, message.pop("kind"), message)

    def _take(self, peer: _Peer, kind: str, message: dict[str, Any]) -> None:
        if kind == "hello":
            hello = Hello(**{**message, "standing": tuple(message["standing"])})
            peer.uid = hello.uid
            self._peers[hello.uid] = peer
            self._roster.arrive(hello)
        elif kind == "stand":
            broken = message["broken"] and message["number"] == self._roster.number
            self._roster.stand(peer.uid, tuple(message["standing"]))
            if broken:
                self._abort()
        elif kind == "leave":
            self._roster.leave(peer.uid)
        elif kind == "finish":
            self._roster.finish(peer.uid)
        elif kind == "beat" and hangs(message["computing"], message["slowest"]):
            why = f"has been computing one step for {message['computing']:.0f} s"
            self._send(peer.uid, "excluded", why=why)
            self._lose(peer, why)

    def _lose(self, peer: _Peer, why: str) -> None:
        self._selector.unregister(peer.connection)
        peer.connection.close()
        if self._peers.pop(peer.uid, None) is None:
            return
        if self._roster.gone(peer.uid) and not self._roster.dismissed():
            log.warning("%s %s: the others go on without it", peer.uid, why)
            self._abort()

    def _abort(self) -> None:
        """Free everybody who is in a collective of the present group."""
        for uid in self._roster.members:
            self._send(uid, "abort", number=self._roster.number)

    def _act(self) -> None:
        for uid in self._roster.dismissed():
            self._send(uid, "dismissed")
        plan = self._roster.next_plan()
        if plan is not None:
            for seat in plan.seats:
                self._send(seat.uid, "plan", number=plan.number, seats=[asdict(seat) for seat in plan.seats])
        self.change_wanted = self._roster.change_wanted

    def _beat(self) -> None:
        """To everybody who is connected: those who still build their model have not said hello yet."""
        now = time.monotonic()
        for peer in [key.data for key in self._selector.get_map().values() if key.data is not None]:
            if now - peer.heard > SILENCE_SECONDS:
                self._lose(peer, f"has been silent for {SILENCE_SECONDS:.0f} s")
            else:
                peer.send("beat", {})

    def _send(self, uid: str, kind: str, **content: Any) -> None:
        peer = self._peers.get(uid)
        if peer is not None:
            peer.send(kind, content)


def encode(kind: str, content: Mapping[str, Any]) -> bytes:
    """A message as it travels."""
    return json.dumps({"kind": kind, **content}, separators=(",", ":")).encode() + b"\n"
