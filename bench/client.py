"""A client of the load generator: the handshake, and the state of the session."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable
from enum import Enum, auto
from typing import Any

from bench import wire

EVENT = b'42["news",'
"""The beginning of missed events."""

Watcher = Callable[["Client", bytes, int], None]
"""Receives a client, the payload of a frame and the size on the wire."""


class Stage(Enum):
    """How far a client has come."""

    UPGRADING = auto()
    OPENING = auto()
    CONNECTING = auto()
    MISSING = auto()
    """The client has the CONNECT packet, and not yet all missed events."""
    READY = auto()


class Client:
    """A connection, and the known state of the session."""

    __slots__ = (
        "arrived_at",
        "asked_at",
        "buffer",
        "expected",
        "offset",
        "pid",
        "ready_at",
        "recovered",
        "sid",
        "sock",
        "stage",
        "watcher",
    )

    def __init__(self) -> None:
        self.sock: socket.socket
        self.buffer = bytearray()
        self.stage = Stage.UPGRADING
        self.pid: str | None = None
        self.sid: str | None = None
        self.offset: str | None = None
        self.recovered = False
        """Whether the last CONNECT packet had the former pid."""
        self.expected = 0
        """The number of events after CONNECT until the client is ready."""
        self.watcher: Watcher | None = None
        self.arrived_at = 0.0
        """The arrival of the last bytes in the kernel, on the wall clock; see ``Crowd.note_arrivals``."""
        self.asked_at = 0.0
        """The sending time of CONNECT."""
        self.ready_at = 0.0
        """The time of the answer and all missed events."""

    @property
    def auth(self) -> dict[str, Any] | None:
        """The auth of the official client on a reconnection."""
        if self.pid is None:
            return None
        return {"pid": self.pid, **({"offset": self.offset} if self.offset else {})}

    def send(self, frame: bytes) -> None:
        """Send a small frame; there is always room for it."""
        self.sock.send(frame)

    def learn_offset(self) -> bool:
        """Take the offset from the last received event, as the official client does."""
        end = self.buffer.rfind(b'"]')
        if end >= 0:
            self.offset = bytes(self.buffer[self.buffer.rfind(b'"', 0, end) + 1 : end]).decode()
            self.buffer.clear()
        return end >= 0

    def advance(self) -> bool:
        """Go on with the handshake, as far as possible; return whether the client is ready.

        Raises ConnectionError.
        """
        if self.stage is Stage.UPGRADING and wire.end_of_upgrade(self.buffer):
            self.stage = Stage.OPENING
        if self.stage is Stage.OPENING and list(wire.take_frames(self.buffer)):
            self.send(wire.connect(self.auth))
            self.asked_at = time.perf_counter()
            self.stage = Stage.CONNECTING
        if self.stage is Stage.CONNECTING:
            start = self.buffer.find(b'40{"sid"')
            end = self.buffer.find(b"}", start)
            if start >= 0 and end >= 0:
                answer = json.loads(bytes(self.buffer[start + 2 : end + 1]))
                self.recovered = self.pid is not None and answer.get("pid") == self.pid
                self.sid, self.pid = answer["sid"], answer.get("pid")
                self.stage = Stage.MISSING
        # A new session instead of a recovered session never receives the missed events.
        if self.stage is Stage.MISSING and (
            not (self.expected and self.recovered) or self.buffer.count(EVENT) >= self.expected
        ):
            self.stage = Stage.READY
            self.ready_at = time.perf_counter()
        return self.stage is Stage.READY
