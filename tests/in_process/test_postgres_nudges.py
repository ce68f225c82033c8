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


async def test_another_hint_is_no_sign_of_a_loss(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Hints of others may come before the own one; a loss is reported when it begins, each time."""
    lost = "No notification of PostgreSQL arrives"
    monkeypatch.setattr(nudges, "PROBE_SECONDS", 60.0)
    heard, url = Seen(), postgres.new_url()
    async with await Connection.connect(connection_string(url), autocommit=True) as other:

        async def hint_of_another(connection: Connection) -> None:
            await connection.execute("LISTEN eventstore")
            await other.execute("SELECT pg_notify('eventstore', 'another 1')")
            heard("connected", connection.info.backend_pid)

        hints = nudges.Nudges(connection_string(url), "this", lambda: heard("a hint"))
        hints._listener.on_connected = hint_of_another
        monkeypatch.setattr(nudges, "PAUSE_SECONDS", 0.01)  # after the sender has taken it as its limit
        tasks = [asyncio.create_task(hints.listen())]
        (_, backend), _ = await heard.until(2)
        tasks.append(asyncio.create_task(hints.run()))
        await until(lambda: hints.are_alive)
        assert lost not in caplog.text
        for count in 1, 2:
            with monkeypatch.context() as lossy:
                lossy.setattr(nudges, "PROBE_SECONDS", 0.01)
                lossy.setattr(nudges, "_LISTEN", "UNLISTEN eventstore")
                backend = await _reconnected(other, heard, backend)
                await until(lambda: caplog.text.count(lost) == count)  # noqa: B023 -- awaited here
            backend = await _reconnected(other, heard, backend)
            await until(lambda: hints.are_alive)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    await hints.close()


async def test_a_foreign_payload_ends_no_listening(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another program may send any text, which the connection may receive in another encoding than UTF-8."""
    monkeypatch.setenv("PGCLIENTENCODING", "LATIN1")
    heard, faults, url = Seen(), list[dict[str, object]](), postgres.new_url()
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: faults.append(context))
    hints = nudges.Nudges(connection_string(url), "this", lambda: heard("a hint"))
    tasks = [asyncio.create_task(run()) for run in (hints.listen, hints.run)]
    await until(lambda: hints.are_alive)
    async with await Connection.connect(connection_string(url), autocommit=True) as other:
        await other.execute("SELECT pg_notify('eventstore', 'caf' || chr(233))")
        await other.execute("SELECT pg_notify('eventstore', 'another 1')")
    await heard.until(1)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    await hints.close()
    assert not faults


async def _reconnected(other: Connection, heard: Seen, backend: int) -> int:
    """Cut the listening connection, and return the process of the next one."""
    heard.all.clear()
    await other.execute("SELECT pg_terminate_backend(%s)", (backend,))
    await until(lambda: any(one[0] == "connected" for one in heard.all))
    return next(int(one[1]) for one in heard.all if one[0] == "connected")
