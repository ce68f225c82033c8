"""The handlers of the scratch server, called by the members and the publishers."""

from __future__ import annotations

import os
import secrets
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from socketio_eventstore.verify.history import VOLATILE
from socketio_eventstore.verify.plan import NAMESPACES
from socketio_eventstore.verify.process import CLOCK

PUBLISHERS = "/publishers"
"""The namespace of the publishers' calls. No event is emitted to this namespace."""

_CONTENT = {"id": "hostile"}
HOSTILE: tuple[dict[str, Any], ...] = (
    {"event": "disconnect", "data": _CONTENT},
    {"event": "newListener", "data": _CONTENT},
    {"event": "hostile", "data": (_CONTENT, *[b""] * 11)},
    {"event": "hostile", "data": (_CONTENT, b"", {"_placeholder": True, "num": 1})},
    {"event": "hostile", "data": (_CONTENT, float("nan"))},
    {"event": "hostile", "data": _CONTENT, "room": "\ud800"},
    {"event": "hostile", "data": _CONTENT, "room": 2**70},
)
"""Emits that official clients cannot read, or that the store cannot keep. The server must refuse them; a
client that receives one reports a damaged event or an invalid packet."""


def register(sio: Any) -> None:
    """Register the handlers. Called by the server at its start."""
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    if (clock := Path(CLOCK)).exists():
        _follow(clock)
    for namespace in NAMESPACES:
        MemberHandlers(sio, namespace)
    PublisherHandlers(sio)


def _follow(clock: Path) -> None:
    """Let the wall clock of this process be as far ahead as the file says, whenever it is asked."""
    wall_clock = time.time
    time.time = lambda: wall_clock() + float(clock.read_text())


def _exit_with_parent() -> None:
    """Exit at the end of standard input, a pipe held by the parent only.

    The pipe ends with the parent process, even after a kill.
    """
    while os.read(0, 1024):
        pass
    os._exit(1)


class MemberHandlers:
    """The handlers for the members, the clients under test, in one namespace."""

    def __init__(self, sio: Any, namespace: str) -> None:
        self._sio, self._namespace = sio, namespace
        sio.on("connect", self.connect, namespace=namespace)
        sio.on("move", self.move, namespace=namespace)

    async def connect(self, sid: str, *_: object) -> None:
        """Emit an event to the connecting client. The event must follow the CONNECT packet."""
        content = {"id": f"welcome {secrets.token_hex(8)}"}
        await self._sio.emit("welcome", content, to=sid, namespace=self._namespace)

    async def move(self, sid: str, message: dict[str, Any]) -> list[str]:
        """Let the calling client join or leave a room."""
        return await move(self._sio, self._namespace, sid, message)


class PublisherHandlers:
    """The handlers for publishers: emits to any session, and moves of any session."""

    def __init__(self, sio: Any) -> None:
        self._sio = sio
        sio.on("connect", self.connect, namespace=PUBLISHERS)
        sio.on("publish", self.publish, namespace=PUBLISHERS)
        sio.on("move", self.move, namespace=PUBLISHERS)

    async def connect(self, _sid: str, *_: object) -> None:
        """Accept every client."""

    async def publish(self, _sid: str, message: dict[str, Any]) -> str | None:
        """Emit an event. The acknowledgement is the event's offset."""
        if message["hostile"]:
            await self._make_hostile_calls(message["namespace"])
        content = {"id": message["id"]}
        if message["binary"]:
            content["blob"] = message["id"].encode()
        volatile = {"volatile": True} if message["name"] == VOLATILE else {}
        offset: str | None = await self._sio.emit(
            message["name"],
            content,
            room=message["to"] or None,
            skip_sid=message["skip"],
            namespace=message["namespace"],
            **volatile,
        )
        return offset

    async def _make_hostile_calls(self, namespace: str) -> None:
        for arguments in HOSTILE:
            with suppress(ValueError):
                await self._sio.emit(**arguments, namespace=namespace)

    async def move(self, _sid: str, message: dict[str, Any]) -> list[str]:
        """Let a session join or leave a room, connected or away."""
        return await move(self._sio, message["namespace"], message["sid"], message)


async def move(sio: Any, namespace: str, sid: str, message: dict[str, Any]) -> list[str]:
    """Join or leave a room between two events for the session alone.

    Returns the offsets of both events; the join or leave lies between these offsets.
    """
    offsets = []
    offsets.append(await sio.emit("moving", {"id": f"{message['id']}<"}, to=sid, namespace=namespace))
    if message["joining"]:
        await sio.enter_room(sid, message["room"], namespace=namespace)
    else:
        await sio.leave_room(sid, message["room"], namespace=namespace)
    offsets.append(await sio.emit("moved", {"id": f"{message['id']}>"}, to=sid, namespace=namespace))
    return offsets
