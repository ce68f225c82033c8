"""The handlers of the server that ``verify`` starts: what clients and publishers ask it to do."""

from __future__ import annotations

import os
import secrets
import threading
from typing import Any

from socketio_eventstore.verify.history import VOLATILE
from socketio_eventstore.verify.plan import NAMESPACES

PUBLISHERS = "/publishers"
"""The namespace in which events are asked for; nothing is emitted there."""


def register(sio: Any) -> None:
    """Called by the server at its start."""
    threading.Thread(target=_end_with_the_parent, daemon=True).start()
    for namespace in NAMESPACES:
        Members(sio, namespace)
    Publishers(sio)


def _end_with_the_parent() -> None:
    """Standard input is a pipe that only the parent holds: its end is the parent's, however it came."""
    while os.read(0, 1024):
        pass
    os._exit(1)


class Members:
    """What the clients under test may do, in one namespace."""

    def __init__(self, sio: Any, namespace: str) -> None:
        self._sio, self._namespace = sio, namespace
        sio.on("connect", self.connect, namespace=namespace)
        sio.on("move", self.move, namespace=namespace)

    async def connect(self, sid: str, *_: object) -> None:
        """Greet everyone who comes: what is emitted here must wait for the CONNECT packet."""
        content = {"id": f"welcome {secrets.token_hex(8)}"}
        await self._sio.emit("welcome", content, to=sid, namespace=self._namespace)

    async def move(self, sid: str, message: dict[str, Any]) -> list[str]:
        """Join or leave a room oneself."""
        return await move(self._sio, self._namespace, sid, message)


class Publishers:
    """What publishers may do: emit to anybody, and move anybody."""

    def __init__(self, sio: Any) -> None:
        self._sio = sio
        sio.on("connect", self.connect, namespace=PUBLISHERS)
        sio.on("publish", self.publish, namespace=PUBLISHERS)
        sio.on("move", self.move, namespace=PUBLISHERS)

    async def connect(self, _sid: str, *_: object) -> None:
        """Everyone may."""

    async def publish(self, _sid: str, message: dict[str, Any]) -> str | None:
        """Emit an event; the answer is its offset."""
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

    async def move(self, _sid: str, message: dict[str, Any]) -> list[str]:
        """Let somebody join or leave a room, connected or away."""
        return await move(self._sio, message["namespace"], message["sid"], message)


async def move(sio: Any, namespace: str, sid: str, message: dict[str, Any]) -> list[str]:
    """Join or leave between two events for the session alone; their offsets say where it happened."""
    offsets = []
    offsets.append(await sio.emit("moving", {"id": f"{message['id']}<"}, to=sid, namespace=namespace))
    if message["joining"]:
        await sio.enter_room(sid, message["room"], namespace=namespace)
    else:
        await sio.leave_room(sid, message["room"], namespace=namespace)
    offsets.append(await sio.emit("moved", {"id": f"{message['id']}>"}, to=sid, namespace=namespace))
    return offsets
