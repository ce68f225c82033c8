"""Handlers that let a test act on a server through Socket.IO itself.

Clients under test connect to ``/`` or ``/other``. The test's own client connects to ``/control``, where
it acts on any session by its sid without being a recipient of anything.
"""

from __future__ import annotations

from typing import Any

from socketio import exceptions

NAMESPACES = ("/", "/other")
CONTROL = "/control"


def register(sio: Any) -> None:
    seen: list[dict[str, Any]] = []
    for namespace in NAMESPACES:
        ClientHandlers(sio, namespace, seen)
    ControlHandlers(sio, seen)


class ClientHandlers:
    """What the clients under test may do, in one namespace."""

    def __init__(self, sio: Any, namespace: str, seen: list[dict[str, Any]]) -> None:
        self.sio, self.namespace, self.seen = sio, namespace, seen
        for handler in (
            self.connect,
            self.disconnect,
            self.session_expired,
            self.join,
            self.leave,
            self.save,
            self.load,
            self.rooms,
            self.whoami,
            self.say,
        ):
            sio.on(handler.__name__, handler, namespace=namespace)

    async def connect(self, sid: str, _environ: dict[str, Any], auth: dict[str, Any] | None) -> None:
        recovered = self.sio.recovered(sid, namespace=self.namespace)
        self.note("connect", sid, auth=auth, recovered=recovered)
        wishes = auth or {}
        if wishes.get("refuse"):
            raise exceptions.ConnectionRefusedError("refused by the test", {"reason": wishes["refuse"]})
        for room in wishes.get("rooms", ()):
            await self.sio.enter_room(sid, room, namespace=self.namespace)
        if wishes.get("greet"):
            await self.sio.emit("greeting", recovered, to=sid, namespace=self.namespace)

    async def disconnect(self, sid: str, reason: str) -> None:
        self.note("disconnect", sid, reason=reason)

    async def session_expired(self, sid: str, *_: object) -> None:
        self.note("session_expired", sid)
        await self.sio.emit("session_expired", sid, namespace=CONTROL)

    async def join(self, sid: str, room: str) -> str:
        await self.sio.enter_room(sid, room, namespace=self.namespace)
        return "joined"

    async def leave(self, sid: str, room: str) -> str:
        await self.sio.leave_room(sid, room, namespace=self.namespace)
        return "left"

    async def save(self, sid: str, data: dict[str, Any]) -> str:
        await self.sio.save_session(sid, data, namespace=self.namespace)
        return "saved"

    async def load(self, sid: str) -> Any:
        return await self.sio.get_session(sid, namespace=self.namespace)

    async def rooms(self, sid: str) -> list[str]:
        return rooms_of(self.sio, sid, self.namespace)

    async def whoami(self, sid: str) -> dict[str, Any]:
        return {"sid": sid, "recovered": self.sio.recovered(sid, namespace=self.namespace)}

    async def say(self, _sid: str, data: Any) -> Any:
        """Emits to everyone in the namespace, as a chat does."""
        return await self.sio.emit("said", data, namespace=self.namespace)

    def note(self, what: str, sid: str, **more: Any) -> None:
        self.seen.append({"what": what, "namespace": self.namespace, "sid": sid, **more})


class ControlHandlers:
    """What the test may do. Every message is a dict; ``sid`` and ``namespace`` in it name the session."""

    def __init__(self, sio: Any, seen: list[dict[str, Any]]) -> None:
        self.sio, self._seen = sio, seen
        for handler in (
            self.publish,
            self.publish_many,
            self.ask,
            self.enter,
            self.evict,
            self.rooms,
            self.save,
            self.load,
            self.hang_up,
            self.revoke,
            self.seen,
        ):
            sio.on(handler.__name__, handler, namespace=CONTROL)

    async def publish(self, _sid: str, message: dict[str, Any]) -> Any:
        """``args`` become the arguments as a tuple, ``data`` becomes the only one; the rest goes to emit."""
        name = message.pop("name")
        args = message.pop("args", None)
        data = message.pop("data", None) if args is None else tuple(args)
        return await self.sio.emit(name, data, **message)

    async def publish_many(self, sid: str, message: dict[str, Any]) -> list[Any]:
        count = message.pop("count")
        return [await self.publish(sid, {**message, "data": number}) for number in range(count)]

    async def ask(self, _sid: str, message: dict[str, Any]) -> Any:
        """An emit that the client acknowledges."""
        name, data = message.pop("name"), message.pop("data", None)
        return await self.sio.call(name, data, **message)

    async def enter(self, _sid: str, message: dict[str, Any]) -> str:
        await self.sio.enter_room(**message)
        return "entered"

    async def evict(self, _sid: str, message: dict[str, Any]) -> str:
        await self.sio.leave_room(**message)
        return "evicted"

    async def rooms(self, _sid: str, message: dict[str, Any]) -> list[str]:
        return rooms_of(self.sio, message["sid"], message.get("namespace"))

    async def save(self, _sid: str, message: dict[str, Any]) -> str:
        await self.sio.save_session(**message)
        return "saved"

    async def load(self, _sid: str, message: dict[str, Any]) -> Any:
        return await self.sio.get_session(**message)

    async def hang_up(self, _sid: str, message: dict[str, Any]) -> str:
        await self.sio.disconnect(**message)
        return "hung up"

    async def revoke(self, _sid: str, message: dict[str, Any]) -> str:
        await self.sio.revoke(**message)
        return "revoked"

    async def seen(self, _sid: str, message: dict[str, Any]) -> list[dict[str, Any]]:
        """What happened to a session since this start of the server, in order."""
        return [record for record in self._seen if record["sid"] == message["sid"]]


def rooms_of(sio: Any, sid: str, namespace: str | None) -> list[str]:
    return sorted(room for room in sio.rooms(sid, namespace=namespace) if room is not None)
