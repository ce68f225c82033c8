"""Handlers that let a test act on a server through Socket.IO itself.

Clients under test connect to ``/`` or ``/other``. The test's own client connects to ``/control``, acts on any
session by the sid, and is no recipient of the session's events.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import defaultdict
from typing import Any

from socketio import exceptions

NAMESPACES = ("/", "/other")
CONTROL = "/control"


def register(sio: Any) -> None:
    seen: list[dict[str, Any]] = []
    gates = Gates()
    for namespace in NAMESPACES:
        ClientHandlers(sio, namespace, seen, gates)
    ControlHandlers(sio, seen, gates)


class FailedOnPurpose(Exception):
    """A handler fails on request of the test."""


class Gates:
    """Named gates at which handlers wait until the test opens them."""

    def __init__(self) -> None:
        self._reached: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)
        self._opened: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)

    async def wait_at(self, name: str | None) -> None:
        """Wait at a gate; a handler without a gate does not wait."""
        if name is not None:
            self._reached[name].set()
            await self._opened[name].wait()

    async def until_reached(self, name: str) -> str:
        await self._reached[name].wait()
        return "reached"

    def open(self, name: str) -> str:
        self._opened[name].set()
        return "opened"


class ClientHandlers:
    """The handlers for the clients under test, in a namespace."""

    def __init__(self, sio: Any, namespace: str, seen: list[dict[str, Any]], gates: Gates) -> None:
        self.sio, self.namespace, self.seen, self.gates = sio, namespace, seen, gates
        self.farewells: dict[str, dict[str, Any]] = {}
        """The options of the disconnect handler for a sid."""
        self.runs = itertools.count(1)
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
            self.count,
        ):
            sio.on(handler.__name__, handler, namespace=namespace)
        sio.exactly_once("chat message", namespace=namespace)(self.chat_message)
        sio.exactly_once("deed", namespace=namespace)(self.deed)

    async def connect(self, sid: str, _environ: dict[str, Any], auth: dict[str, Any] | None) -> None:
        recovered = self.sio.recovered(sid, namespace=self.namespace)
        self.note("connect", sid, auth=auth, recovered=recovered)
        options = auth or {}
        if options.get("refuse"):
            raise exceptions.ConnectionRefusedError("refused by the test", {"reason": options["refuse"]})
        self.farewells[sid] = options.get("farewell", {})
        await self.gates.wait_at(options.get("gate"))
        if "bind" in options:
            await self.sio.bind(sid, options["bind"], namespace=self.namespace)
        for room in options.get("rooms", ()):
            await self.sio.enter_room(sid, room, namespace=self.namespace)
        if options.get("greet"):
            await self.sio.emit("greeting", recovered, to=sid, namespace=self.namespace)

    async def disconnect(self, sid: str, reason: str) -> None:
        self.note("disconnect", sid, reason=reason)
        farewell = self.farewells.get(sid, {})
        await self.gates.wait_at(farewell.get("gate"))
        for room in farewell.get("leave", ()):
            await self.sio.leave_room(sid, room, namespace=self.namespace)

    async def session_expired(self, sid: str, data: dict[str, Any]) -> None:
        self.note("session_expired", sid, data=data)
        await self.sio.emit("session_expired", sid, namespace=CONTROL)
        await self.gates.wait_at(data.get("gate"))
        runs = [
            record for record in self.seen if record["sid"] == sid and record["what"] == "session_expired"
        ]
        if len(runs) <= data.get("failures", 0):
            raise FailedOnPurpose

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
        """Emits to the namespace, as a chat does."""
        return await self.sio.emit("said", data, namespace=self.namespace)

    async def count(self, sid: str) -> None:
        """Counts the calls in the session, with python-socketio's own methods."""
        async with self.sio.session(sid, namespace=self.namespace) as data:
            data["count"] = data.get("count", 0) + 1

    async def chat_message(self, _sid: str, text: str, _key: str) -> dict[str, Any]:
        """Step 8 of the tutorial, handled exactly once."""
        await self.sio.emit("chat message", text, namespace=self.namespace)
        return {"text": text, "run": next(self.runs)}

    async def deed(self, sid: str, options: dict[str, Any], *_key: object) -> Any:
        """Runs the operations in the options, exactly once."""
        run = next(self.runs)
        for text in options.get("say", ()):
            await self.sio.emit("said", text, namespace=self.namespace)
        if "join" in options:
            await self.sio.enter_room(sid, options["join"], namespace=self.namespace)
        if "leave" in options:
            await self.sio.leave_room(sid, options["leave"], namespace=self.namespace)
        if "close" in options:
            await self.sio.close_room(options["close"], namespace=self.namespace)
        if "save" in options:
            await self.sio.save_session(sid, options["save"], namespace=self.namespace)
        for _ in range(options.get("count", 0)):
            await self.count(sid)
        await self.gates.wait_at(options.get("gate"))
        if options.get("fail"):
            raise FailedOnPurpose
        return {"a set"} if options.get("unanswerable") else {"run": run}

    def note(self, what: str, sid: str, **more: Any) -> None:
        self.seen.append({"what": what, "namespace": self.namespace, "sid": sid, **more})


class ControlHandlers:
    """The handlers for the test. Every message is a dict; ``sid`` and ``namespace`` name the session."""

    def __init__(self, sio: Any, seen: list[dict[str, Any]], gates: Gates) -> None:
        self.sio, self._seen, self._gates = sio, seen, gates
        for handler in (
            self.publish,
            self.publish_many,
            self.publish_at_once,
            self.ask,
            self.enter,
            self.evict,
            self.rooms,
            self.save,
            self.load,
            self.hang_up,
            self.revoke,
            self.seen,
            self.close_room,
            self.amend,
            self.until_reached,
            self.open_gate,
        ):
            sio.on(handler.__name__, handler, namespace=CONTROL)

    async def publish(self, _sid: str, message: dict[str, Any]) -> Any:
        """Emits ``args`` as several arguments, or ``data`` as a single argument; the rest are options of the
        emit.
        """
        name = message.pop("name")
        args = message.pop("args", None)
        data = message.pop("data", None) if args is None else tuple(args)
        return await self.sio.emit(name, data, **message)

    async def publish_many(self, sid: str, message: dict[str, Any]) -> list[Any]:
        count = message.pop("count")
        return [await self.publish(sid, {**message, "data": number}) for number in range(count)]

    async def publish_at_once(self, sid: str, message: dict[str, Any]) -> list[Any]:
        """Emits numbered events of a given size concurrently, for shared transactions."""
        count, padding = message.pop("count"), "x" * message.pop("size", 0)
        publishing = [self.publish(sid, {**message, "args": [number, padding]}) for number in range(count)]
        return await asyncio.gather(*publishing)

    async def ask(self, _sid: str, message: dict[str, Any]) -> Any:
        """An emit with an acknowledgement from the client."""
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
        """The handler calls of a session since the start of the server, in order."""
        return [record for record in self._seen if record["sid"] == message["sid"]]

    async def close_room(self, _sid: str, message: dict[str, Any]) -> str:
        await self.sio.close_room(**message)
        return "closed"

    async def amend(self, _sid: str, message: dict[str, Any]) -> str:
        """Changes some of the saved data, by ``session()``."""
        change = message.pop("change")
        async with self.sio.session(**message) as data:
            data.update(change)
        return "amended"

    async def until_reached(self, _sid: str, message: dict[str, Any]) -> str:
        return await self._gates.until_reached(message["gate"])

    async def open_gate(self, _sid: str, message: dict[str, Any]) -> str:
        return self._gates.open(message["gate"])


def rooms_of(sio: Any, sid: str, namespace: str | None) -> list[str]:
    return sorted(room for room in sio.rooms(sid, namespace=namespace) if room is not None)
