"""The life of a recovering official client, on any server and transport."""

from __future__ import annotations

from typing import Any

from support.clients import NodeClients
from support.processes import ServerCommand


async def recovers_what_it_missed(server: ServerCommand, node: NodeClients, **options: Any) -> None:
    """A client is live, away, recovered with all events in order, and live again, after a crash as well."""
    control = await node.control(server.url, **options.pop("control", {}))
    client = await node.client(server.url, reconnection=False, **options)
    first = await client.connected()
    assert not first.recovered and first.pid
    assert await client.call("join", "room") == "joined"

    binary = {"text": "täxt", "bytes": b"\x00\x01\xff", "list": [b"", b"\x80"]}
    expected: list[tuple[str, list[Any], str]] = []

    async def publish(name: str, args: list[Any], **message: object) -> None:
        offset = await control.call("publish", {"name": name, "args": args, **message})
        expected.append((name, args, offset))

    async def publish_all() -> None:
        await publish("plain", [])
        await publish("to the room", [{"number": 1}, "two", [3, None, 4.5]], to="room")
        await publish("binary", [binary, b"last"], to="room")
        await publish("to the sid", [first.sid], to=first.sid)
        await control.call("publish", {"name": "to nobody here", "to": "empty room"})

    async def got_everything() -> None:
        await client.until(lambda: len(client.events) >= len(expected), f"{len(expected)} events")
        assert [(event.name, event.data, event.offset) for event in client.events] == expected

    await publish_all()
    await got_everything()
    for leave in (client.cut, client.close):
        await leave()
        await publish_all()
        await client.connect()
        await client.recovered_again()
        await got_everything()
        await publish_all()
        await got_everything()

    server.kill()
    await client.gone()
    await control.gone()
    server.start()
    await control.reconnected()
    await publish_all()
    await client.connect()
    await client.recovered_again()
    await got_everything()
    assert await client.call("whoami") == {"sid": first.sid, "recovered": True}
