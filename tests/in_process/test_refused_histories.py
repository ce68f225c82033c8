"""Clients that came back and were not recovered: found from their former session, with the reason."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from socketio_eventstore.adapter.administration import Administration
from socketio_eventstore.adapter.session_timelines import TimelineEntry
from socketio_eventstore.core.operations import CatchUp
from socketio_eventstore.core.retention import Retention
from support.embedded import Server, Socket, away, serving, until


async def timeline(server: Server, sid: str, namespace: str = "/") -> list[TimelineEntry]:
    runtime = await server.manager.start()
    await runtime.queue.submit(CatchUp())  # a lost transport is away at once, and in the log soon
    _, found = await Administration(server.sio).session(namespace, sid, limit=100)
    return found.entries


async def since_away(server: Server, sid: str) -> list[tuple[str, str | None, str | None]]:
    """Kind, reason and other session of the entries behind the last lost transport."""
    entries = [(str(entry.kind), entry.reason, entry.sid) for entry in await timeline(server, sid)]
    last = max(index for index, entry in enumerate(entries) if entry[0] == "away")
    return entries[last + 1 :]


async def connected(server: Server, **auth: Any) -> tuple[Socket, dict[str, Any]]:
    socket = await server.socket()
    return socket, await socket.connect(auth=auth or None)


def counts(path: Path) -> dict[str, int]:
    with closing(sqlite3.connect(path)) as database:
        tables = ("sessions", "session_history", "ended_sessions")
        return {table: database.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in tables}


def register(sio: Any) -> None:
    async def connect(sid: str, environ: Any, auth: Any) -> bool | None:
        if (auth or {}).get("refuse"):
            return False
        await sio.bind(sid, (auth or {}).get("user", "ann"))
        await sio.enter_room(sid, "red")
        return None

    sio.on("connect", connect)


async def test_each_way_not_to_recover(path: Path) -> None:
    """The former session tells the reason, and the new session where there is one."""
    async with serving(path, recovery={"max_missed_packets": 1}, register=register) as server:
        client, first = await connected(server)
        sid, pid = first["sid"], first["pid"]
        assert (await timeline(server, sid))[-1].room == "red"
        await away(server, client)
        assert (await timeline(server, sid))[-1].reason == "transport close"

        stranger, other = await connected(server, pid=pid, user="bob")
        assert await since_away(server, sid) == [
            ("refused", "refused", None),
            ("replaced", "refused", other["sid"]),
        ]
        assert (await timeline(server, other["sid"]))[0].sid == sid

        refused = await server.socket()
        await refused.send(f'40{{"pid":"{pid}","refuse":true}}')
        await refused.content("44")
        assert (await since_away(server, sid))[2:] == [("refused", "refused", None)]

        _, other = await connected(server, pid=pid, offset=7)
        assert (await since_away(server, sid))[3:] == [("replaced", "bad_offset", other["sid"])]

        client, again = await connected(server, pid=pid)
        assert again["sid"] == sid
        node = (await server.manager.start()).log.node
        recovered = (await timeline(server, sid))[-1]
        assert (recovered.kind, recovered.missed, recovered.node) == ("recovered", 0, node)
        await away(server, client)
        for _ in range(2):
            await server.sio.emit("missed", to="red", skip_sid=stranger.sid)
        _, other = await connected(server, pid=pid)
        assert await since_away(server, sid) == [
            ("refused", "too_many_missed", None),
            ("replaced", "too_many_missed", other["sid"]),
        ]
        await server.sio.revoke(sid)
        _, other = await connected(server, pid=pid)
        assert (await since_away(server, sid))[2:] == [
            ("ended", "revoked", None),
            ("replaced", "unknown_session", other["sid"]),
        ]
        secrets = [pid, other["pid"], "s3cret"]
        await server.sio.emit("event", "s3cret")
    with closing(sqlite3.connect(path)) as database:
        dump = "\n".join(
            line for line in database.iterdump() if '"session_history"' in line or '"ended_sessions"' in line
        )
    assert "too_many_missed" in dump and not any(secret in dump for secret in secrets)


async def test_a_foreign_namespace_learns_nothing(path: Path) -> None:
    """A private id of another namespace is a stranger's: neither session tells of the other."""
    async with serving(path, namespaces=["/", "/other"]) as server:
        client, first = await connected(server)
        await server.sio.revoke(first["sid"])
        assert await client.packet() is None
        other = await (await server.socket()).connect("/other", {"pid": first["pid"]})
        opened = (await timeline(server, other["sid"], "/other"))[0]
        assert (opened.reason, opened.sid) == ("unknown_session", None)
        assert (await timeline(server, first["sid"]))[-1].kind == "ended"


async def test_retention_prunes_histories(path: Path) -> None:
    """The pruning task deletes what is older than events and an hour, and nothing younger."""
    async with serving(path, recovery={"prune_interval": 3600.0}) as server:
        _, first = await connected(server)
        runtime = await server.manager.start()
        assert isinstance(runtime.retention, Retention)
        await runtime.retention.sweep()
        assert [entry.kind for entry in await timeline(server, first["sid"])] == ["opened", "connected"]
        runtime.retention._history_retention_seconds = -1.0
        await runtime.retention.sweep()
        # The newest entry of all stays, for its number.
        assert [entry.kind for entry in await timeline(server, first["sid"])] == ["connected"]


async def test_clients_that_were_never_accepted(path: Path) -> None:
    """Strangers who are refused, or close before the answer, leave nothing in the histories."""
    asked, is_closed = asyncio.Event(), asyncio.Event()

    def register(sio: Any) -> None:
        async def connect(sid: str, environ: Any, auth: Any) -> bool:
            if auth == {"close": True}:
                asked.set()
                await is_closed.wait()
            return False

        sio.on("connect", connect)

    async with serving(path, register=register) as server:
        refused = await server.socket()
        await refused.send("40")
        await refused.content("44")
        leaving = await server.socket()
        await leaving.send('40{"close":true}')
        await asked.wait()
        assert counts(path) == {"sessions": 1, "session_history": 2, "ended_sessions": 0}
        await leaving.leave()
        await until(lambda: not counts(path)["sessions"])
        assert counts(path) == {"sessions": 0, "session_history": 0, "ended_sessions": 0}
        is_closed.set()
