"""The store in PostgreSQL through lost connections, crashes, failovers and older copies."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from socketio_eventlog.changes import Pruned
from socketio_eventlog.errors import HistoryLost, OffsetRolledBack, OffsetUnknown, StoreUnavailable
from socketio_eventlog.postgres import nudges
from socketio_eventlog.session_changes import SessionClaimed
from support.postgres import LAZY, Cluster
from support.postgres_nodes import all_until, joined_node
from support.postgres_proxies import Cutting, pgbouncer
from support.storing import BEAT, append, commit, event, joined, opened_postgres, session

if TYPE_CHECKING:
    from socketio_eventlog.postgres.log import PostgresLog


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A cluster of this file's own, for it is made to crash."""
    cluster = Cluster()
    try:
        cluster.start(**LAZY)
        yield cluster
    finally:
        cluster.remove()


@pytest.fixture
def database(cluster: Cluster) -> str:
    return cluster.new_database()


def restart_at_once(cluster: Cluster, _database: str) -> None:
    cluster.stop(signal.SIGQUIT)
    cluster.start(**LAZY)


async def texts(log: PostgresLog) -> list[str]:
    return [logged.event.payload for logged in await log.read(range(1, log.head + 1))]


def payloads(count: int) -> list[str]:
    return [event(str(number)).payload for number in range(count)]


# Lost connections ------------------------------------------------------------------------------------


@pytest.mark.parametrize("cut", [Cutting.cut_next_answer, Cutting.cut_next_request])
async def test_a_cut_append_is_stored_once(
    cluster: Cluster, database: str, cut: Callable[[Cutting], None]
) -> None:
    """An append whose answer or request is lost is sent again, and has one place with one outcome."""
    async with Cutting(cluster) as proxy, opened_postgres(proxy.url_of(database)) as log:
        await log.join()
        for number in range(5):
            cut(proxy)
            sid = f"s{number}"
            batch = await append(
                log, [event(str(number)), session(sid), joined("a", sid), SessionClaimed("/", sid)]
            )
            assert [done.position for done in batch.changes] == [number + 1] * 4
            assert (batch.changes[3].took_effect, batch.changes[3].claim) == (True, 2)
        assert proxy.cuts == 5
        assert await texts(log) == payloads(5)
        assert [stored.claim for stored in (await log.join()).sessions] == [2] * 5
        assert log.offset_text(log.head) == f"{log.node}.5", "no epoch begins without a crash"


# Crashes of PostgreSQL -------------------------------------------------------------------------------


@pytest.mark.parametrize("crash", [Cluster.kill_a_backend, restart_at_once])
async def test_a_crash_loses_no_batch(
    cluster: Cluster, database: str, crash: Callable[[Cluster, str], None]
) -> None:
    """A log goes on after a crash of PostgreSQL: nothing is lost or repeated, and an epoch begins."""
    async with opened_postgres(cluster.url(database)) as log:
        first = (await log.join()).batch + 1
        numbers = [await log.append([event(str(number))]) for number in range(5)]
        before = log.offset_text(log.head)
        crashing = asyncio.create_task(asyncio.to_thread(crash, cluster, database))
        numbers += await asyncio.gather(*(log.append([event(str(number))]) for number in range(5, 40)))
        await crashing
        numbers.append(await log.append([event("40")]))
        epoch, sequence = log.offset_of(log.head)
        assert sequence == 41 and epoch != log.node
        assert str(log.locate(before)) == before, "the offsets of the former epoch stay valid"
        assert log.precedes_epoch(log.node, epoch)
        assert await texts(log) == payloads(41)
        last = numbers[-1]
        batches = [await anext(log.batches()) for _ in range(first, last + 1)]
        assert log.offset_text(log.head) == f"{epoch}.41"
        assert [batch.number for batch in batches] == list(range(first, last + 1))
        assert [batch.number for batch in batches if batch.own is not None] == numbers
    async with opened_postgres(cluster.url(database)) as log:
        await log.join()
        assert await texts(log) == payloads(41)


async def test_a_crash_loses_a_tail_with_normal(cluster: Cluster, database: str) -> None:
    """Without a flush a crash takes a tail that took effect: the log stops, its offsets are refused."""
    async with opened_postgres(cluster.url(database), synchronous="normal") as log:
        await commit(log, [event("kept")])
        kept = log.offset_text(log.head)
        cluster.sql(database, "CHECKPOINT")
        process = cluster.freeze_the_wal_writer()
        await commit(log, [event("lost")])
        lost = log.offset_text(log.head)
        await asyncio.to_thread(cluster.crash, process)
        for _ in range(2):
            with pytest.raises(StoreUnavailable, match="an older state is back"):
                await log.append([event()])
    await _is_refused(cluster.url(database), kept, lost)


async def test_all_who_saw_what_is_lost_stop(cluster: Cluster, database: str) -> None:
    """Each node that has applied a batch which a crash took stops, and the next one begins an epoch."""
    url = cluster.url(database)
    lazily = {"synchronous": "normal"}
    async with joined_node(url, **lazily) as one, joined_node(url, **lazily) as other:
        await other.until((await one.commit(event("kept"))).number)
        kept = one.log.offset_text(1)
        cluster.sql(database, "CHECKPOINT")
        process = cluster.freeze_the_wal_writer()
        await other.until((await one.commit(event("lost"))).number)
        lost = other.log.offset_text(2)
        await asyncio.to_thread(cluster.crash, process)
        for node in (one, other):
            with pytest.raises(HistoryLost):
                await node.until(node.batches[-1].number + 1)
            with pytest.raises(HistoryLost):
                await node.log.append([event()])
        await _is_refused(url, kept, lost)


async def _is_refused(url: str, kept: str, lost: str) -> None:
    """Another life knows the kept offset, and refuses the lost one even when the log has grown again."""
    async with opened_postgres(url) as log:
        for _ in range(2):
            assert str(log.locate(kept)) == kept
            with pytest.raises((OffsetRolledBack, OffsetUnknown)):
                log.locate(lost)
            await commit(log, [event("new")] * 3)
        assert (await texts(log))[:2] == [event("kept").payload, event("new").payload]


async def test_a_crash_behind_pgbouncer(cluster: Cluster, database: str) -> None:
    """PgBouncer in transaction mode gives each transaction another connection, and hides a crash."""
    with pgbouncer(cluster) as folder:
        url = f"postgresql://tests@:6432/{database}?host={folder}"
        async with opened_postgres(url) as log:
            await log.join()
            for number in range(5):
                await commit(log, [event(str(number))])
                assert len(await log.read([number + 1])) == 1
            before = log.offset_text(log.head)
            await asyncio.to_thread(restart_at_once, cluster, database)
            await commit(log, [event("5")])
            assert log.offset_text(log.head).partition(".")[0] != log.node, "an epoch has begun"
            assert str(log.locate(before)) == before
            assert await texts(log) == payloads(6)


async def test_nodes_behind_pgbouncer(
    cluster: Cluster, database: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Notifications do not pass PgBouncer: the log says so, and the table is asked for batches."""
    monkeypatch.setattr(nudges, "PROBE_SECONDS", 0.1)
    with pgbouncer(cluster) as folder:
        url = f"postgresql://tests@:6432/{database}?host={folder}"
        async with joined_node(url) as one, joined_node(url) as other:
            for number in range(5):
                await other.until((await one.commit(event(str(number)))).number)
                await one.until((await other.commit(event(str(number)))).number)
            while caplog.text.count("No notification of PostgreSQL arrives") < 2:  # noqa: ASYNC110 -- a log
                await asyncio.sleep(0.01)
            await asyncio.to_thread(restart_at_once, cluster, database)
            batches = await asyncio.gather(*(node.log.append([event()]) for node in (one, other)))
            await all_until((one, other), max(batches))
            assert one.story[1:] == other.story
            assert one.log.offset_text(12) == other.log.offset_text(12)


# Lost history ----------------------------------------------------------------------------------------


async def test_a_standby_that_lags_is_promoted(cluster: Cluster, database: str) -> None:
    """The events that the standby lacks are refused; a log that has seen them stops."""
    standby = cluster.standby()
    try:
        standby.start()
        url = cluster.url(database, standby)
        async with opened_postgres(url) as log:
            await commit(log, [event("kept"), session()])
            kept = log.offset_text(log.head)
            standby.until_caught_up_with(cluster)
            standby.stop()
            await commit(log, [event("lost")])
            lost = log.offset_text(log.head)
            cluster.stop()
            standby.start()
            standby.promote()
            with pytest.raises(StoreUnavailable, match="an older state is back"):
                await log.append([event()])
        await _is_refused(url, kept, lost)
    finally:
        standby.remove()
        cluster.start(**LAZY)


@asynccontextmanager
async def _older_state(cluster: Cluster, database: str, way: str) -> AsyncIterator[tuple[str, str]]:
    """A log that runs while an older state comes back; gives its offsets from before and after."""
    url = cluster.url(database)
    dump = str(cluster.folder / f"{database}.dump")
    async with opened_postgres(url) as log:
        await commit(log, [event("kept"), session()])
        kept = log.offset_text(log.head)
        copy = None
        if way == "files":
            cluster.stop(signal.SIGINT)
            copy = cluster.copy()
            cluster.start(**LAZY)
        else:
            cluster.run("pg_dump", "-Fc", "-f", dump, "-h", str(cluster.folder), "-U", "tests", database)
        await commit(log, [event("lost")])
        lost = log.offset_text(log.head)
        restore = ("pg_restore", "-h", str(cluster.folder), "-U", "tests", "-d", database)
        if copy is not None:
            cluster.stop()
            cluster.replace_data(copy)
            cluster.start(**LAZY)
        elif way == "dump":
            cluster.run(*restore, "--clean", dump)
        else:
            tables = cluster.sql(database, "SELECT tablename FROM pg_tables WHERE schemaname = 'eventstore'")
            cluster.sql(database, *(f"DELETE FROM eventstore.{table}" for table in tables.split()))
            cluster.run(*restore, "--data-only", "--disable-triggers", dump)
        with pytest.raises(StoreUnavailable, match="an older state is back"):
            await log.append([event()])
        another = "INSERT INTO eventstore.events VALUES (2, 0, '/', 'message', NULL, NULL, 2, 0, '[]')"
        cluster.sql(database, another)
        assert await log.read([2]) == [], "another history is not read"
        cluster.sql(database, 'DELETE FROM eventstore.events WHERE "offset" = 2')
    yield kept, lost


@pytest.mark.parametrize("way", ["files", "dump", "data of a dump"])
async def test_an_older_copy_is_put_back(cluster: Cluster, database: str, way: str) -> None:
    """The events after the copy are refused; a log that has seen them stops."""
    async with _older_state(cluster, database, way) as (kept, lost):
        await _is_refused(cluster.url(database), kept, lost)


async def test_a_snapshot_of_another_program_stays(cluster: Cluster, database: str) -> None:
    """Appends, deletions and heartbeats go on while another program reads all tables in a transaction."""
    import psycopg

    url = cluster.url(database)
    async with opened_postgres(url) as log, joined_node(url) as another:
        await commit(log, [event()] * 5)
        tables = cluster.sql(database, "SELECT tablename FROM pg_tables WHERE schemaname = 'eventstore'")
        with psycopg.connect(cluster.url(database)) as other:
            other.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            for table in tables.split():
                other.execute(f"SELECT count(*) FROM eventstore.{table}".encode())
            await commit(log, [event(), BEAT, Pruned(3), session(), joined("a"), SessionClaimed("/", "s1")])
            seen = other.execute("SELECT count(*) FROM eventstore.events").fetchone()
            await another.commit(BEAT, event())
        assert seen == (5,)
        assert await log.counts() == (1, 4)
