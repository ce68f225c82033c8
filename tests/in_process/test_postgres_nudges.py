"""The hints between nodes on PostgreSQL, where they do not arrive."""

from __future__ import annotations

import asyncio

import pytest

from socketio_eventlog.postgres import nudges
from socketio_eventlog.postgres.connection import Connection, connection_string
from support import postgres
from support.embedded import Seen, until


async def test_an_early_hint_is_no_proof(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A hint that comes with the answer to LISTEN, as behind PgBouncer, does not show that others will come.

    Here the connection listens no longer when LISTEN has ended.
    """
    monkeypatch.setattr(nudges, "PROBE_SECONDS", 0.1)
    monkeypatch.setattr(nudges, "_LISTEN", "UNLISTEN eventstore")
    heard, url = Seen(), postgres.new_url()

    async def listen_for_a_moment(connection: Connection) -> None:
        await connection.execute("LISTEN eventstore")
        for hint in "another 1", "this 0":
            await connection.execute("SELECT pg_notify('eventstore', %s)", (hint,))

    hints = nudges.Nudges(connection_string(url), "this", lambda: heard("a hint"))
    hints._listener.on_connected = listen_for_a_moment
    tasks = [asyncio.create_task(run()) for run in (hints.listen, hints.run)]
    await heard.until(1)
    await until(lambda: "No notification of PostgreSQL arrives" in caplog.text)
    assert not hints.are_alive and heard.all == ["a hint"]
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    await hints.close()
