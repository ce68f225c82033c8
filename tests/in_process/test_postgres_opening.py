"""The opening of a log in PostgreSQL: what is refused, and what another server finds."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

import pytest

from socketio_eventlog.errors import (
    DatabaseTooNew,
    NodeFenced,
    NodeOutdated,
    StoreClosed,
    StoreNotUsable,
    StoreRejected,
)
from socketio_eventlog.opening import open_log
from socketio_eventlog.options import StoreOptions
from socketio_eventlog.postgres import encoding
from socketio_eventlog.postgres.connection import connection_string, describe
from socketio_eventlog.session_changes import DataSaved
from support import postgres
from support.next_version import EXPANSION
from support.postgres_nodes import joined_node
from support.storing import Clock, commit, event, opened_postgres, session


@pytest.fixture
def url() -> str:
    return postgres.new_url()


def sql(url: str, statement: str) -> str:
    return postgres.shared_cluster().sql(url.partition("@/")[2].partition("?")[0], statement)


def test_without_the_extra_one_line_says_so() -> None:
    """Without psycopg the start names the extra."""
    code = """
import asyncio, sys
sys.modules["psycopg"] = None
from socketio_eventlog.errors import StoreNotUsable
from socketio_eventlog.opening import open_log
from socketio_eventlog.options import StoreOptions
try:
    asyncio.run(open_log(StoreOptions(path=None, url="postgresql://host/database")))
except StoreNotUsable as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "install the extra postgres" in done.stdout


@pytest.mark.parametrize("url", ["postgresql://ann:secret@/none?host=/nowhere", "postgresql://ann:secret@[x"])
async def test_an_error_does_not_show_the_password(url: str) -> None:
    """A database that cannot be reached is an error of one line, without the password."""
    with pytest.raises(StoreNotUsable) as caught:
        await open_log(StoreOptions(path=None, url=url))
    assert "secret" not in str(caught.value) and "\n" not in str(caught.value)
    assert "secret" not in repr(StoreOptions(path=None, url=url))


@pytest.mark.parametrize(
    "address",
    ["hun/ter2@localhost/db", "sec:hunter2@x@host/db", "hunter2/@h?application_name=x", "hunter2/a?user=x"],
)
async def test_no_part_of_a_password_is_shown(address: str) -> None:
    """libpq takes the rest of a password with a / or an @ for a host, a port or a database."""
    for ask in describe, connection_string:
        with pytest.raises(StoreNotUsable, match="percent-encoded") as caught:
            ask(f"postgresql://user:{address}")
        assert "ter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("postgresql://a:b%2Fc%40d@h:1,i:2/e?application_name=f@g", "e on h,i"),
        ("postgresql://a@/e?host=@abstract", "e on @abstract"),
        ("postgresql://[::1]:5432/e", "e on ::1"),
        ("host=h dbname=a@b password='x://y@z@/@'", "a@b on h"),
    ],
)
def test_a_database_is_named(url: str, name: str) -> None:
    assert describe(url) == name


async def test_a_newer_database_is_refused(url: str) -> None:
    """A newer schema is used while its readers may be of this version, and left alone from then on."""
    sql(url, "UPDATE eventstore.alembic_version SET version_num = '9999'")
    async with opened_postgres(url) as log:
        assert await commit(log, [event()]) == [1]
    sql(url, "UPDATE eventstore.log_state SET min_reader = 2")
    with pytest.raises(DatabaseTooNew, match="format 2"):
        await open_log(StoreOptions(path=None, url=url))


async def test_an_outdated_node_is_stopped(url: str) -> None:
    """A node that is older than the log demands writes nothing more, and leaves."""
    async with joined_node(url) as node:
        await node.commit(event())
        sql(url, "UPDATE eventstore.log_state SET min_reader = 2")
        with pytest.raises(NodeOutdated, match=r"format 2, .* knows 1\."):
            await node.log.append([event()])
        assert sql(url, "SELECT count(*) FROM eventstore.nodes") == "1\n"
    assert sql(url, "SELECT count(*) FROM eventstore.nodes") == "0\n"
    with pytest.raises(DatabaseTooNew, match="format 2"):
        await open_log(StoreOptions(path=None, url=url))


@dataclass(frozen=True)
class Unknown:
    """A change of a newer version."""

    text: str = "text"


async def test_a_change_of_a_newer_version(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An optional change is left out; at another one the node stops before it gives out the batch."""
    sql(url, EXPANSION)
    unknown: Any = Unknown()
    async with joined_node(url) as node, joined_node(url) as newer:
        monkeypatch.setitem(encoding._ROWS, Unknown, ("optional_noted", lambda one: (one.text,)))
        batch = await newer.commit(event("first"), unknown, event("second"))
        foreign = await node.until(batch.number)
        assert list(foreign.changes) == [batch.changes[0], batch.changes[2]]
        monkeypatch.setitem(encoding._ROWS, Unknown, ("renamed", lambda one: (one.text,)))
        batch = await newer.commit(event(), unknown)
        with pytest.raises(NodeOutdated, match="renamed"):
            await node.until(batch.number)
        assert node.log.head == 2
        with pytest.raises(NodeOutdated):
            await node.log.append([event()])


async def test_an_empty_database_is_migrated_once() -> None:
    """Of two simultaneous starts on an empty database one makes the schema, and both join."""
    cluster = postgres.shared_cluster()
    options = StoreOptions(path=None, url=cluster.url(cluster.new_database()))
    logs = await asyncio.gather(*(open_log(options) for _ in range(2)))
    assert len({log.offset_at(0).epoch for log in logs}) == 1, "the second one begins no epoch"
    nodes = [{node.node for node in (await log.join()).nodes} for log in logs]
    assert nodes == [{log.node for log in logs}] * 2
    for log in logs:
        await log.close()


async def test_a_frozen_server_is_fenced(url: str) -> None:
    """A server without heartbeats is dead for the next one that starts, and cannot write any more."""
    clock = Clock(100.0)
    async with opened_postgres(url, clock=clock) as frozen:
        await commit(frozen, [session()])
        clock.now += 61.0
        async with opened_postgres(url, clock=clock) as log:
            (found,) = (await log.join()).sessions
            assert (found.node, found.away_since) == (None, 0.0)
            with pytest.raises(NodeFenced):
                await frozen.append([DataSaved("/", "s1", '{"late":1}')])
            with pytest.raises(NodeFenced):
                async for _ in frozen.batches():
                    pass
            assert await commit(log, [event()]) == [1]
            assert (await log.join()).sessions[0].data == "{}"


async def test_text_that_postgres_lacks_is_refused(url: str) -> None:
    """A NUL character fails alone and clearly; in payloads and rooms it is kept, and the views show it."""
    async with opened_postgres(url) as log:
        for change in (
            DataSaved("/", "s\0", "{}"),
            event()._replace(name="a\0b"),
            event()._replace(namespace="\0"),
        ):
            with pytest.raises(StoreRejected):
                await log.append([session(), event(), change])
        odd = event()._replace(payload='["message","\\u0000",1e2,-0.0,"\\ud800"]', rooms=("a\0b", 'q"\\', 7))
        assert await commit(log, [odd, session()]) == [1, 1]
        assert [logged.event for logged in await log.read([1])] == [odd]
    assert sql(url, "SELECT rooms FROM eventstore.recent_events") == 'a\ufffdb, q"\\, 7\n'


async def test_a_server_that_does_not_flush(url: str, caplog: pytest.LogCaptureFixture) -> None:
    """The log names a database that a loss of power may destroy, unless that was accepted."""
    warning = "has fsync = off: a loss of power may destroy the whole database."
    async with opened_postgres(url, synchronous="normal"):
        assert warning not in caplog.text
    async with opened_postgres(url):
        assert caplog.text.count(warning) == 1


def test_an_abandoned_log_leaves_no_tasks(url: str, caplog: pytest.LogCaptureFixture) -> None:
    """After the end of its event loop a log is closed on another one, as in test suites."""
    loop = asyncio.new_event_loop()
    log = loop.run_until_complete(open_log(StoreOptions(path=None, url=url)))
    loop.run_until_complete(log.append([event()]))
    loop.close()
    caplog.clear()

    async def rest() -> None:
        log.abandon()
        with pytest.raises(StoreClosed):
            await log.append([event()])

    asyncio.run(rest())
    gc.collect()
    assert caplog.text == ""
