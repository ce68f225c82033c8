"""Every argument of a call that is an address: refused at the call, or taken as by python-socketio."""

from __future__ import annotations

import enum
import inspect
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support.embedded import Server, answering_pings, serving

Call = Callable[[Any, str, Any], Any]
"""A call of a server with the sid of a session and the value to be tried."""


class Colour(enum.Enum):
    RED = "red"


SIDS: dict[str, Call] = {
    "recovered": lambda sio, _, value: sio.recovered(value),
    "recovery_result": lambda sio, _, value: sio.recovery_result(value),
    "claims": lambda sio, _, value: sio.claims(value),
    "get_session": lambda sio, _, value: sio.get_session(value),
    "save_session": lambda sio, _, value: sio.save_session(value, {}),
    "bind": lambda sio, _, value: sio.bind(value, "me"),
    "enter_room": lambda sio, _, value: sio.enter_room(value, "room"),
    "transport": lambda sio, _, value: sio.transport(value),
}
"""Calls that name a session, which raise KeyError for one that does not exist."""
ROOMS: dict[str, Call] = {
    "emit to": lambda sio, _, value: sio.emit("e", to=value),
    "emit room": lambda sio, _, value: sio.emit("e", room=value),
    "emit volatile": lambda sio, _, value: sio.emit("e", to=value, volatile=True),
    "emit callback": lambda sio, _, value: sio.emit("e", to=value, callback=lambda *_: None),
    "send to": lambda sio, _, value: sio.send("text", to=value),
    "call to": lambda sio, _, value: sio.call("e", to=value, timeout=0.01),
    "call sid": lambda sio, _, value: sio.call("e", sid=value, timeout=0.01),
    "events room": lambda sio, _, value: sio.events(room=value),
    "fetch_sessions room": lambda sio, _, value: sio.fetch_sessions(room=value),
}
"""Calls for one or more rooms."""
ONE_ROOM: dict[str, Call] = {
    "enter_room room": lambda sio, sid, value: sio.enter_room(sid, value),
    "leave_room room": lambda sio, sid, value: sio.leave_room(sid, value),
    "close_room room": lambda sio, _, value: sio.close_room(value),
}
SKIPPED: dict[str, Call] = {
    "emit skip_sid": lambda sio, _, value: sio.emit("e", skip_sid=value),
    "emit skip_sid volatile": lambda sio, _, value: sio.emit("e", skip_sid=value, volatile=True),
    "send skip_sid": lambda sio, _, value: sio.send("text", skip_sid=value),
}
NAMESPACES: dict[str, Call] = {
    "emit namespace": lambda sio, _, value: sio.emit("e", namespace=value),
    "emit namespace volatile": lambda sio, _, value: sio.emit("e", namespace=value, volatile=True),
    "send namespace": lambda sio, _, value: sio.send("text", namespace=value),
    "call namespace": lambda sio, sid, value: sio.call("e", to=sid, namespace=value, timeout=0.01),
    "close_room namespace": lambda sio, _, value: sio.close_room("room", namespace=value),
    "events namespace": lambda sio, _, value: sio.events(namespace=value),
    "enter_room namespace": lambda sio, sid, value: sio.enter_room(sid, "room", namespace=value),
}
NAMES: dict[str, Call] = {
    "emit event": lambda sio, _, value: sio.emit(value),
    "emit event volatile": lambda sio, _, value: sio.emit(value, volatile=True),
    "call event": lambda sio, sid, value: sio.call(value, to=sid, timeout=0.01),
    "events event": lambda sio, _, value: sio.events(event=value),
    "exactly_once": lambda sio, _, value: sio.exactly_once(value),
    "bind identity": lambda sio, sid, value: sio.bind(sid, value),
    "revoke_identity": lambda sio, _, value: sio.revoke_identity(value),
}
"""Names of events and identities."""

NEVER: tuple[Any, ...] = (
    1.5,
    float("nan"),
    True,
    b"bytes",
    bytearray(b"bytes"),
    1j,
    "\ud800",
    "x" * 1001,
    uuid.UUID(int=1),
    Colour.RED,
    object(),
    str,
    len,
    [["nested"]],
    {"key": {}}.values(),
)
"""Values that no call takes, but those for a sid that does not exist."""
BEYOND_64_BITS = (2**63, -(2**63) - 1, 2**70)
OF_OTHER_TYPES = ([1.5], [b"bytes"], ["\ud800"], ["x" * 1001], [2**70], [True], [uuid.UUID(int=1)])
NO_TEXT = (1, -1, 2**70, ["text"], {"text": 1}, {"text"}, frozenset({"text"}), range(3))


def refusals() -> list[tuple[str, Call, Any]]:
    """Each call with the values that it has to refuse."""
    tables = (
        (SIDS, (*NEVER, *BEYOND_64_BITS, None, "", 0, "unknown")),
        (ROOMS, (*NEVER, *BEYOND_64_BITS, *OF_OTHER_TYPES, [None], [str(n) for n in range(10_001)])),
        (ONE_ROOM, (*NEVER, *BEYOND_64_BITS, *OF_OTHER_TYPES, None, [], {}, ["room"])),
        (SKIPPED, (*NEVER, *BEYOND_64_BITS, *OF_OTHER_TYPES, [str(n) for n in range(10_001)])),
        (NAMESPACES, (*NEVER, *NO_TEXT)),
        (NAMES, (*NEVER, *NO_TEXT)),
    )
    return [
        (name, call, value) for table, values in tables for name, call in table.items() for value in values
    ]


async def outcome(call: Call, server: Server, sid: str, value: Any) -> BaseException | None:
    try:
        result = call(server.sio, sid, value)
        if inspect.isawaitable(result):
            await result
    except Exception as error:  # noqa: BLE001 -- the test judges it
        return error
    return None


@pytest.mark.timeout(120)
async def test_what_is_no_address_is_refused(path: Path) -> None:
    """Each call refuses a value that is no address, with a sentence, before anything reaches the store."""
    wrong = []
    async with serving(path) as server:
        socket = await server.socket()
        sid = (await socket.connect())["sid"]
        async with answering_pings(socket):
            runtime = await server.manager.start()
            head = runtime.log.head
            for name, call, value in refusals():
                error = await outcome(call, server, sid, value)
                is_refused = type(error) in (TypeError, ValueError, KeyError)
                if not is_refused or "has no" in str(error):
                    wrong.append(f"{name} with {value!r:.60}: {error!r:.100}")
            assert runtime.log.head == head
            assert runtime.queue.appending.failed_commits == 0
    assert wrong == []


SKIPS_NOBODY: tuple[Any, ...] = (None, False, "", 0, 7, [], (), set(), [None], "unknown", ["unknown", 0])
MAIN_NAMESPACE: tuple[Any, ...] = (None, "", 0, {}, "/")


@pytest.mark.parametrize(
    "values",
    [
        *({"skip_sid": value} for value in SKIPS_NOBODY),
        *({"namespace": value} for value in MAIN_NAMESPACE),
    ],
    ids=str,
)
async def test_what_stock_takes_is_taken(path: Path, values: dict[str, Any]) -> None:
    """Values that name nobody skip nobody, and an empty namespace is the main one, as in python-socketio."""
    async with serving(path) as server:
        socket = await server.socket()
        await socket.connect()
        assert await socket.event_of(server.sio.emit("told", 1, **values)) == ["told", 1]
