"""The recipients of an event: confirmed, sent, missed."""

from __future__ import annotations

import pytest

from socketio_eventstore.adapter.administration import Administration
from socketio_eventstore.adapter.feeds import CursorRefused
from socketio_eventstore.core.recipients import Receipt
from support.embedded import Server, away


async def receipts(server: Server, offset: str | None) -> dict[str, str]:
    """The receipts of an event by sid."""
    assert offset is not None
    _, found = await Administration(server.sio).recipients(offset, None, None, 100)
    assert sum(found.counts.values()) == len(found.page)
    return {session.sid: str(known) for session, known in found.page}


async def test_recipients_of_an_event(server: Server) -> None:
    """Members at the time of the event are its recipients, until one has left and confirms."""
    ann, bob, eve = [await server.client() for _ in range(3)]
    for client in (ann, bob):
        await server.sio.enter_room(client.sid, "red")
    early = await server.sio.emit("early", room="red", skip_sid=bob.sid)
    await away(server, bob)
    offset = await server.sio.emit("said", room="red")
    await server.sio.leave_room(ann.sid, "red")
    await server.sio.leave_room(bob.sid, "red")
    await server.sio.enter_room(eve.sid, "red")
    late = await server.client()
    assert await receipts(server, early) == {ann.sid: "sent"}
    assert await receipts(server, offset) == {ann.sid: "sent", bob.sid: "missed"}
    runtime = await server.manager.start()
    session = runtime.registry.get("/", ann.sid)
    assert session is not None
    everyone = await server.sio.emit("all")
    session.confirm(runtime.context.position)
    assert await receipts(server, offset) == {bob.sid: "missed"}
    others = {bob.sid: "missed", eve.sid: "sent", late.sid: "sent"}
    assert await receipts(server, everyone) == {ann.sid: "confirmed", **others}
    await server.sio.revoke(bob.sid)
    assert await receipts(server, offset) == {}


async def test_pages_of_recipients(server: Server) -> None:
    """Pages continue behind a sid, with one receipt only if one is asked for; the counts stay whole."""
    clients = [await server.client() for _ in range(5)]
    await away(server, clients[0])
    offset = await server.sio.emit("said") or ""
    administration, seen, after = Administration(server.sio), list[str](), None
    for size in (2, 2, 0):
        _, found = await administration.recipients(offset, Receipt.SENT, after, 2)
        assert found.counts == {Receipt.SENT: 4, Receipt.MISSED: 1}
        seen += [session.sid for session, _ in found.page]
        assert len(found.page) == size
        after = found.next
    assert seen == sorted(client.sid for client in clients[1:])


async def test_recipients_of_no_event(server: Server) -> None:
    """An offset without event and a text that is no offset are told apart."""
    offset = await server.sio.emit("said") or ""
    administration = Administration(server.sio)
    for wrong, error in ((f"{offset.partition('.')[0]}.0", KeyError), ("x", CursorRefused)):
        with pytest.raises(error):
            await administration.recipients(wrong, None, None, 1)
