"""The handlers of a server under attack, and the handlers for the observing test.

Honest clients join the room ``well-behaved``. All emits for an attacker go to the attacker, so no honest
client is a recipient.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import itertools
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from socketio import exceptions

CONTROL = "/control"
FILL_BATCH = 250
MANY_NAMESPACES = 2_000
"""The namespaces ``/n0``, ``/n1`` and so on."""
ROOM = "well-behaved"
STREAM_PAUSE_SECONDS = 0.02
"""The pause between two events of the stream."""


def register(sio: Any) -> None:
    async def connect(sid: str, environ: dict[str, Any], auth: Any) -> None:
        pass

    for handlers in (_Honest(sio), _Attacked(sio)):
        for name in handlers.events:
            sio.on(name, getattr(handlers, name))
    observed = Observed(sio)
    for name in observed.events:
        sio.on(name, getattr(observed, name), namespace=CONTROL)
    for namespace in ("/", CONTROL, *(f"/n{number}" for number in range(MANY_NAMESPACES))):
        sio.on("connect", connect, namespace=namespace)


class _Honest:
    """The handlers of honest clients."""

    events = ("tell", "join", "leave", "save")

    def __init__(self, sio: Any) -> None:
        self._sio = sio

    async def tell(self, _sid: str, data: Any) -> Any:
        return await self._sio.emit("told", data, room=ROOM)

    async def join(self, sid: str, room: Any = None, *_more: Any) -> str:
        if isinstance(room, str):
            try:
                await self._sio.enter_room(sid, room)
            except ValueError:
                return "too long, or one room too many"
        return "joined"

    async def leave(self, sid: str, room: str) -> str:
        await self._sio.leave_room(sid, room)
        return "left"

    async def save(self, sid: str, *data: Any) -> str | None:
        try:
            await self._sio.save_session(sid, {"data": data})
        except ValueError:
            return "too large, or no number"
        return None


class _Attacked:
    """The handlers for the attackers."""

    events = ("anything", "address", "flood", "fill", "ask", "wait", "hold")

    def __init__(self, sio: Any) -> None:
        self._sio = sio

    async def anything(self, sid: str, *arguments: Any) -> Any:
        try:
            await self._sio.emit("echo", arguments, to=sid)
        except (TypeError, ValueError):
            return "cannot be sent"
        return len(arguments)

    async def address(self, _sid: str, rooms: Sequence[str]) -> str:
        """Emit to rooms named by the client."""
        try:
            await self._sio.emit("addressed", to=rooms)
        except ValueError:
            return "too many rooms, or too long"
        return "sent"

    async def flood(self, sid: str, count: int, size: int, to: str | None = None) -> str:
        """Emit large unstored events, to the client or to another client."""
        for _ in range(count):
            await self._sio.emit("flood", "x" * size, to=to or sid, volatile=True)
        return "sent"

    async def fill(self, _sid: str, room: str, count: int) -> str:
        """Emit many stored events."""
        for start in range(0, count, FILL_BATCH):
            await asyncio.gather(
                *(self._sio.emit("filled", number, room=room) for number in range(start, start + FILL_BATCH))
            )
        return "stored"

    async def ask(self, sid: str) -> str:
        """Ask for an acknowledgement."""
        await self._sio.emit("question", to=sid, callback=lambda *_: None)
        return "asked"

    async def wait(self, sid: str) -> str:
        """Wait for an acknowledgement."""
        with suppress(exceptions.TimeoutError):
            await self._sio.call("question", to=sid, timeout=0.1)
        return "waited"

    async def hold(self, _sid: str, seconds: float) -> None:
        """Run long."""
        await asyncio.sleep(seconds)


class Observed:
    """The handlers for the test: a stream for the honest clients, and the counts of the server's objects."""

    events = ("begin", "end", "census", "resident_kib")

    def __init__(self, sio: Any) -> None:
        self._sio = sio
        self._ends = asyncio.Event()
        self._stream: asyncio.Task[int] | None = None
        self._number = 0

    async def begin(self, _sid: str) -> None:
        """Begin, or go on, with numbered events for the honest clients."""
        self._ends.clear()
        self._stream = asyncio.create_task(self._tell())

    async def end(self, _sid: str) -> int:
        """End the stream; returns the last number."""
        assert self._stream is not None
        self._ends.set()
        return await self._stream

    async def _tell(self) -> int:
        while not self._ends.is_set():
            self._number += 1
            await self._sio.emit("told", self._number, room=ROOM)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._ends.wait(), STREAM_PAUSE_SECONDS)
        return self._number

    async def census(self, _sid: str) -> dict[str, int]:
        """The numbers of all objects that a client can leave behind."""
        sio = self._sio
        runtime, engine, clients = sio.manager.runtime, sio.eio, sio._clients
        registry, queue = runtime.registry, runtime.queue
        replayer = runtime.context.begin_replay.__self__
        return {
            "connections": len(engine.sockets),
            "pending handshakes": engine.pending,
            "TCP connections": _tcp_connections(),
            "unread responses": len(engine.unread._watched),
            "environs": len(sio.environ),
            "tasks": len(asyncio.all_tasks()),
            "sessions": sum(1 for _ in registry),
            "private ids": len(registry._by_pid),
            "memberships": sum(len(members) for members in registry.rooms.values()),
            "live memberships": sum(len(members) for members in registry._live.values()),
            "waiting groups": len(queue._waiting),
            "waiting bytes": queue._waiting_bytes,
            "waiting operations": queue._waiting_operations,
            "pending session changes": len(queue._pending.due),
            "replays": len(replayer._replays) + len(replayer._served),
            "callbacks": sum(len(callbacks) for callbacks in sio.manager.callbacks.values()),
            "incomplete packets": len(clients._decoder._incomplete),
            "connect packets": len(clients.admission._connecting),
            "handler slots": len(clients.calls._last),
            "orphaned handlers": len(clients._orphaned_handlers),
            "unsent bytes": sum(connection.unsent_bytes for connection in engine.sockets.values()),
            "deferred packets": sum(
                len(session.current.deferred_packets or ()) for session in itertools.chain(registry)
            ),
        }

    async def resident_kib(self, _sid: str) -> int:
        """The resident memory without garbage, and without free memory where the C library can return it."""
        gc.collect()
        return _resident_kib()


def _resident_kib() -> int:
    with suppress(OSError, AttributeError):  # only glibc has the function
        ctypes.CDLL(None).malloc_trim(0)
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0])


def _tcp_connections() -> int:
    """Return the number of sockets of the process, from Linux."""
    sockets = 0
    for file in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            sockets += file.readlink().name.startswith("socket:")
    return sockets
