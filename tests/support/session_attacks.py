"""Attacks with the packets of Socket.IO: CONNECT, events, acknowledgements, private ids and offsets."""

from __future__ import annotations

import json
import secrets
from typing import Any

from support.attacker import Attacker, send_unread, together
from support.embedded import Socket
from support.handlers_under_attack import MANY_NAMESPACES
from support.hostile import GARBAGE, MAX_PAYLOAD, hostile_auths
from support.raw_websocket import text

HANDLERS_AT_ONCE = 10_000
"""The limit of the server for the running handlers of one connection."""


async def client(attacker: Attacker) -> tuple[Socket, dict[str, Any]]:
    """Return a connected client, and the content of the CONNECT packet."""
    socket = await attacker.socket()
    return socket, await socket.connect()


async def long_names_and_room_lists(attacker: Attacker) -> None:
    """Rooms with long names, and events for thousands of rooms."""
    socket, _ = await client(attacker)
    for number in range(100):
        await socket.call("join", f"{number} {'x' * 2_000}")
        await socket.call("join", f"{number} {'x' * 900}")
    for count in (9_000, 9_000, 9_000, 10_001):
        await socket.call("address", [f"{number:x}" for number in range(count)])
    await socket.leave()


async def joins_and_leaves(attacker: Attacker) -> None:
    """A client joins and leaves rooms without a pause, and joins more than allowed."""
    socket, _ = await client(attacker)
    for number in range(400):
        await socket.send(f'42["join","room {number % 50}"]')
        await socket.send(f'42["leave","room {number % 50}"]')
    for number in range(200):
        await socket.send(f'42["join","more {number}"]')
    await socket.call("join", "the last one")
    await socket.leave()


async def silent_acknowledgements(attacker: Attacker) -> None:
    """Clients do not acknowledge."""

    async def one() -> None:
        socket, _ = await client(attacker)
        for _ in range(1_500):
            await socket.send('42["ask"]')
        for _ in range(20):
            await socket.send('42["wait"]')
        await socket.send('421["wait"]')
        while await socket.packet() != '431["waited"]':
            pass

    await together([one() for _ in range(4)])


async def claims_with_one_pid(attacker: Attacker) -> None:
    """A crowd of connections claims a session."""
    owner, connected = await client(attacker)

    async def claim() -> None:
        socket = await attacker.socket()
        await socket.send(f"40{json.dumps({'pid': connected['pid']})}")

    await together([claim() for _ in range(60)])
    await owner.leave()


async def pids_of_others(attacker: Attacker) -> None:
    """Clients guess private ids, and use a private id in another namespace."""
    owner, connected = await client(attacker)
    elsewhere = await attacker.socket()
    for number in range(300):
        pid = connected["pid"] if number == 0 else secrets.token_urlsafe(18)
        answer = await elsewhere.connect(f"/n{number}", {"pid": pid})
        assert answer["pid"] != pid
    await elsewhere.leave()
    await owner.leave()


async def hostile_ids_and_offsets(attacker: Attacker) -> None:
    """A client sends invalid private ids, and invalid offsets or offsets of another epoch."""
    victim, connected = await client(attacker)
    pid = connected["pid"]
    await victim.send('42["anything"]')
    offset = (await victim.event())[-1]
    for auth in hostile_auths(pid, offset):
        socket = await attacker.socket()
        await socket.send(f"40{auth}")
        answer = await socket.packet()
        # A new session, or no session, or the victim's session for its correct pid.
        if isinstance(answer, str) and f'"{pid}"' in answer:
            assert json.loads(auth)["pid"] == pid
        else:
            assert answer is None or (isinstance(answer, str) and answer.startswith("40{")), (auth, answer)
        await socket.leave()
    await victim.leave()


async def unknown_namespaces(attacker: Attacker) -> None:
    """A client asks for thousands of namespaces, half of which do not exist."""
    socket = await attacker.socket()
    for number in range(MANY_NAMESPACES):
        await socket.send(f"40/n{number},")
        await socket.send(f"40/unknown{number},")
    answers = [await socket.packet() for _ in range(2 * MANY_NAMESPACES)]
    assert sum(str(answer).startswith("40/n") for answer in answers) == MANY_NAMESPACES
    assert sum(str(answer).startswith("44/unknown") for answer in answers) == MANY_NAMESPACES
    await socket.leave()


async def invalid_packets(attacker: Attacker) -> None:
    """Clients send invalid packets."""
    await together([attacker.send(garbage) for garbage in GARBAGE])


async def binary_placeholders(attacker: Attacker) -> None:
    """Clients send too many, too few and too large attachments, and placeholders for none."""
    header = '453-["anything",{"_placeholder":true,"num":0},{"_placeholder":true,"num":1},7]'
    sequences: list[list[str | bytes]] = [
        [header, b"1", b"2"],
        [header, b"1", "42[]"],
        [header, b"1", b"2", b"3", b"4"],
        [header, header],
        [header, *[bytes(MAX_PAYLOAD - 1)] * 3],
        ['45100000-["anything"]', *[b"x"] * 5_000],
        [b"without a header"],
        [b""] * 100,
        ['451-["anything",{"_placeholder":true,"num":5}]', b"x"],
        ['461-7[{"_placeholder":true,"num":0}]', b"x"],
        ['450-["anything"]'],
    ]
    await together([attacker.send(*sequence) for sequence in sequences])
    placeholders = ",".join(['{"_placeholder":true,"num":0}'] * 3_000)
    for _ in range(20):  # an attachment is missing, and the connection stays open
        kept = await attacker.keep_client()
        await send_unread(kept, text(f'451-["anything",{placeholders}]'))


async def handlers_that_run_long(attacker: Attacker) -> None:
    """A client starts more handlers than may run at once."""
    kept = await attacker.keep_client()
    await send_unread(kept, text('42["hold",2.0]') * (HANDLERS_AT_ONCE + 500))


async def returns_that_hang_up(attacker: Attacker) -> None:
    """A client with many missed events comes back again and again, and hangs up at once."""
    socket, connected = await client(attacker)
    await socket.call("join", "missed")
    await socket.leave()
    other, _ = await client(attacker)
    assert await other.call("fill", "missed", 3_000) == ["stored"]
    auth = json.dumps({"pid": connected["pid"]})
    for _ in range(30):
        kept = await attacker.keep_websocket()
        await send_unread(kept, text(f"40{auth}"))
        kept.close()
    await other.leave()
