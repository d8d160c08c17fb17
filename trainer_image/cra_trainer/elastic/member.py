"""A rank's end of the membership channel.

Two daemon threads read and beat, so that the main one may be anywhere: in the script, or in a collective that
has to be aborted because somebody it waits for is gone.
"""

from __future__ import annotations

import contextlib
import json
import queue
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from torch import distributed as dist

from cra_trainer.elastic.coordinator import BEAT_SECONDS, SILENCE_SECONDS, encode
from cra_trainer.elastic.roster import Hello, Plan, Standing


class LeaderLost(dist.DistError):
    """The rank that everybody talks to is gone: what is left is the newest checkpoint."""


class Member:
    """The connection to the leader.

    Args:
        address: Host and port of the leader's coordinator.
        on_plan: Called by a thread when this rank is called into a group.
        on_abort: Called by a thread when the present group is broken.
        on_exclusion: Called by a thread when the others have given this rank up; gets the reason.

    Attributes:
        broken: Whether the present group has been given up.
    """

    def __init__(
        self,
        address: tuple[str, int],
        *,
        on_plan: Callable[[], None],
        on_abort: Callable[[], None],
        on_exclusion: Callable[[str], None],
    ) -> None:
        self.broken = False
        self._on_plan, self._on_abort, self._on_exclusion = on_plan, on_abort, on_exclusion
        self._number = 0
        self._answers: queue.SimpleQueue[Plan | str] = queue.SimpleQueue()
        self._computing_since: float | None = None
        self._slowest = 0.0
        self._lock = threading.Lock()
        try:
            self._connection = socket.create_connection(address, timeout=SILENCE_SECONDS)
        except OSError as error:
            raise LeaderLost(f"the leader at {address[0]}:{address[1]} cannot be reached: {error}") from error
        self._connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        threading.Thread(target=self._listen, name="cra-member", daemon=True).start()
        threading.Thread(target=self._beat, name="cra-beat", daemon=True).start()

    def hello(self, hello: Hello) -> Plan:
        """Say that this rank is ready; returns its first group once that is formed.

        Raises:
            LeaderLost: The leader is gone.
        """
        self._send("hello", **asdict(hello))
        return self._next_plan()

    def stand(self, standing: Standing, *, broken: bool) -> Plan:
        """Wait for the next group, between two steps.

        Args:
            standing: How far this rank's state is.
            broken: Whether a collective of the present group failed.

        Raises:
            LeaderLost: The leader is gone.
        """
        self._send("stand", number=self._number, standing=standing, broken=broken)
        return self._next_plan()

    def leave(self) -> None:
        """Leave the group after a step; returns when the others need nothing of it any more."""
        self._send("leave")
        with contextlib.suppress(LeaderLost):
            self._answer()

    def finish(self) -> bool:
        """Wait until everybody has come to the end; False if the group must be formed anew before."""
        self._send("finish")
        with contextlib.suppress(LeaderLost):
            return self._answer() == "dismissed"
        return True

    def computing(self, yes: bool) -> None:
        """Tell the beat that a step's own part begins or ends, the part in which only this rank can hang."""
        since, now = self._computing_since, time.monotonic()
        if since is not None and not yes:
            self._slowest = max(self._slowest, now - since)
        self._computing_since = now if yes else None

    def _next_plan(self) -> Plan:
        while True:
            answer = self._answer()
            if isinstance(answer, Plan):
                return answer

    def _answer(self) -> Plan | str:
        answer = self._answers.get()
        if answer == "lost":
            self._answers.put(answer)
            raise LeaderLost("rank 0 is gone, and with it the group")
        return answer

    def _listen(self) -> None:
        self._connection.settimeout(SILENCE_SECONDS)
        with contextlib.suppress(OSError, ValueError):
            for line in self._connection.makefile("rb"):
                message: dict[str, Any] = json.loads(line)
                self._take(message.pop("kind"), message)
        self.broken = True
        self._answers.put("lost")
        self._on_abort()

    def _take(self, kind: str, message: dict[str, Any]) -> None:
        if kind == "plan":
            seats = (Hello(**{**seat, "standing": tuple(seat["standing"])}) for seat in message["seats"])
            self._number, self.broken = message["number"], False
            self._on_plan()
            self._answers.put(Plan(number=self._number, seats=tuple(seats)))
        elif kind == "abort" and message["number"] == self._number and not self.broken:
            self.broken = True
            self._answers.put("abort")
            self._on_abort()
        elif kind == "dismissed":
            self._answers.put("dismissed")
        elif kind == "excluded":
            self._on_exclusion(message["why"])

    def _beat(self) -> None:
        while True:
            time.sleep(BEAT_SECONDS)
            since = self._computing_since
            computing = 0.0 if since is None else time.monotonic() - since
            try:
                self._send("beat", computing=computing, slowest=self._slowest)
            except LeaderLost:
                return

    def _send(self, kind: str, **content: Any) -> None:
        try:
            with self._lock:
                self._connection.sendall(encode(kind, content))
        except OSError as error:
            raise LeaderLost("rank 0 is gone, and with it the group") from error
