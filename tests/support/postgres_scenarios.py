"""The rules of several nodes on a database: each scenario fails when the store breaks a rule."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from socketio_eventlog.changes import Change, Committed, Heartbeat, NodeDied
from socketio_eventlog.errors import HistoryLost, NodeFenced
from socketio_eventlog.session_changes import DataSaved, SessionAway, SessionClaimed
from support.postgres import Cluster
from support.postgres_nodes import Node, all_until, joined_node
from support.postgres_proxies import Cutting
from support.storing import BEAT, Clock, event, opened_postgres, session

ROUNDS = 3
"""The WAL writer of PostgreSQL may flush by itself in one of the rounds."""
ANOTHER_HISTORY = (
    """
    UPDATE eventstore.batches SET chain = 'another'
    WHERE batch = (SELECT max(batch) FROM eventstore.batches)
    """,
    """
    INSERT INTO eventstore.batches
    SELECT batch + 1, epoch, 'nobody', 1, '', 'another', last, last, at, uptime, '[]', '{}'
    FROM eventstore.batches ORDER BY batch DESC LIMIT 1
    """,
)


# What takes effect is durable ------------------------------------------------------------------------


@asynccontextmanager
async def _flushed(cluster: Cluster, database: str) -> AsyncIterator[None]:
    """Assert that the WAL was flushed past the beginning of the block; needs a lazy cluster."""
    before = cluster.sql(database, "SELECT pg_current_wal_insert_lsn()").strip()
    yield
    assert cluster.sql(database, f"SELECT pg_current_wal_flush_lsn() > '{before}'") == "t\n", "not durable"


async def own_batches_are_durable(cluster: Cluster, database: str) -> None:
    """A batch is flushed when the own node gives the batch out."""
    async with joined_node(cluster.url(database)) as one:
        for _ in range(ROUNDS):
            async with _flushed(cluster, database):
                await one.commit(event())


async def batches_of_others_are_durable(cluster: Cluster, database: str) -> None:
    """A batch not flushed by the own node is flushed when another node gives the batch out."""
    url = cluster.url(database)
    async with joined_node(url, synchronous="normal") as lazy, joined_node(url) as other:
        for _ in range(ROUNDS):
            async with _flushed(cluster, database):
                await other.until((await lazy.commit(event())).number)


async def snapshots_are_durable(cluster: Cluster, database: str) -> None:
    """The snapshot of a node is flushed, although the node only reads."""
    url = cluster.url(database)
    async with (
        joined_node(url, synchronous="normal") as lazy,
        opened_postgres(url, synchronous="normal") as log,
    ):
        for number in range(ROUNDS):
            async with _flushed(cluster, database):
                await lazy.commit(session(f"s{number}"))
                assert len((await log.join()).sessions) == number + 1


async def a_cancelled_wait_is_no_flush(cluster: Cluster, database: str) -> None:
    """A cancelled wait for a synchronous standby looks like success; the flush is done again."""
    waiting = f"""
    SELECT pid || ' ' || query_start FROM pg_stat_activity
    WHERE datname = '{database}' AND wait_event = 'SyncRep' AND query
    """

    async def ask(query: str) -> str:
        return (await asyncio.to_thread(cluster.sql, database, f"{waiting} {query}")).strip()

    async with opened_postgres(cluster.url(database)) as log:
        cluster.sql(database, "ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
        cluster.sql(database, "SELECT pg_reload_conf()")
        try:
            appending, count = log.append([event()]), 1
            while not (first := await ask("LIKE '%emit_message%'")):
                # The backend reads its configuration some time after the reload.
                if appending.done():
                    appending, count = log.append([event()]), count + 1
            cluster.sql(database, f"SELECT pg_cancel_backend({first.split()[0]})")
            # The next try waits again, with the flush or as soon as it is connected.
            while (await ask("~ 'emit_message|enter'")) in ("", first) and not appending.done():
                pass
            assert not appending.done()
        finally:
            cluster.sql(database, "ALTER SYSTEM RESET synchronous_standby_names")
            cluster.sql(database, "SELECT pg_reload_conf()")
        await appending
        assert len(await log.read(range(1, count + 2))) == count


# One order -------------------------------------------------------------------------------------------


async def all_nodes_see_one_order(cluster: Cluster, database: str) -> None:
    """Appends of three nodes at once are in one order, with equal outcomes; each node finds its own
    batches.
    """
    async with AsyncExitStack() as stack:
        url = cluster.url(database)
        nodes = [await stack.enter_async_context(joined_node(url)) for _ in range(3)]
        opened = await nodes[0].commit(session("s1"))
        await all_until(nodes, opened.number)

        async def write(node: Node) -> list[int]:
            numbers = []
            for number in range(30):
                claim: list[Change] = [SessionClaimed("/", "s1")] if number % 5 == 0 else []
                numbers.append(await node.log.append([event(str(number)), *claim]))
                if number % 7 == 0:
                    await node.until(numbers[-1])
            return numbers

        written = await asyncio.gather(*map(write, nodes))
        last = max(map(max, written))
        await all_until(nodes, last)
        stories = [[batch for batch in node.story if batch.number >= opened.number] for node in nodes]
        assert stories[0] == stories[1] == stories[2]
        assert [batch.number for batch in stories[0]] == list(range(opened.number, last + 1))
        for node, own in zip(nodes, written, strict=True):
            mine = [batch for batch in node.batches if batch.own is not None and batch.number > opened.number]
            assert [batch.number for batch in mine] == own
        changes = [done for batch in stories[0] for done in batch.changes]
        claims = [done.claim for done in changes if type(done.change) is SessionClaimed]
        assert claims == list(range(2, 20)), "each claim has its own number"
        logged = [await node.log.read(range(1, 91)) for node in nodes]
        assert len(logged[0]) == 90 and logged[0] == logged[1] == logged[2]


async def a_cut_append_is_stored_once(cluster: Cluster, database: str) -> None:
    """An unanswered append is sent again under the same number; meanwhile the table may have the batch."""
    async with (
        Cutting(cluster) as proxy,
        joined_node(proxy.url_of(database)) as one,
        joined_node(cluster.url(database)) as other,
    ):
        for number in range(3):
            proxy.cut_next_answer()
            batch = await one.commit(event(str(number)))
            assert (batch.own, batch.changes[0].position) == (number + 1, number + 1)
            await other.until(batch.number)
        assert proxy.cuts == 3
        assert [node.log.head for node in (one, other)] == [3, 3]


# The history -----------------------------------------------------------------------------------------


async def an_epoch_begins_in_an_append(cluster: Cluster, database: str) -> None:
    """A crash unnoticed by all connections begins an epoch, once, in the order, for all nodes."""
    async with joined_node(cluster.url(database)) as one, joined_node(cluster.url(database)) as other:
        first = await one.commit(event())
        await other.until(first.number)
        cluster.sql(database, "DELETE FROM eventstore.canary")
        written = await asyncio.gather(*(node.log.append([event()]) for node in (one, other)))
        await all_until((one, other), max(written))
        assert cluster.sql(database, "SELECT count(*) FROM eventstore.epochs") == "2\n"
        epochs = [str(one.log.offset_of(sequence)).partition(".")[0] for sequence in (1, 2, 3)]
        assert epochs[0] != epochs[1] == epochs[2]
        for node in (one, other):  # an offset is a function of the batch
            assert [node.log.offset_of(sequence).epoch for sequence in (1, 2, 3)] == epochs
            assert node.log.offset_text(3) == f"{epochs[2]}.3"


async def a_crash_begins_one_epoch(cluster: Cluster, database: str) -> None:
    """Through a crash of PostgreSQL all nodes go on with every batch, and the epoch begins once."""
    async with joined_node(cluster.url(database)) as one, joined_node(cluster.url(database)) as other:
        before = await one.commit(event())
        await other.until(before.number)
        offset = one.log.offset_text(1)
        crashing = asyncio.create_task(asyncio.to_thread(cluster.kill_a_backend, database))
        during = [node.log.append([event()]) for _ in range(20) for node in (one, other)]
        written = await asyncio.gather(*during)
        await crashing
        written += await asyncio.gather(*(node.log.append([event()]) for node in (one, other)))
        await all_until((one, other), max(written))
        assert one.story[1:] == other.story, "the first one has seen the second one join"
        assert cluster.sql(database, "SELECT count(*) FROM eventstore.epochs") == "2\n"
        head = 43
        assert one.log.offset_text(head) == other.log.offset_text(head) == str(other.log.offset_of(head))
        assert one.log.offset_at(head).epoch != offset.partition(".")[0]
        assert str(other.log.locate(offset)) == offset, "the offsets of the former epoch stay valid"
        assert cluster.sql(database, "SELECT count(*) FROM eventstore.events") == f"{head}\n"


async def an_offset_names_the_epoch_of_its_batch(cluster: Cluster, database: str) -> None:
    """A node that has not appended since an epoch began names the offsets by the new epoch, too."""
    async with joined_node(cluster.url(database)) as one, joined_node(cluster.url(database)) as other:
        cluster.sql(database, "DELETE FROM eventstore.canary")
        await other.until((await one.commit(event())).number)
        assert one.log.offset_text(1) == other.log.offset_text(1) == str(other.log.offset_of(1))


async def a_late_batch_keeps_its_epoch(cluster: Cluster, database: str) -> None:
    """A session with a late effect, after the next epoch has begun, began in the former epoch, on all
    nodes.
    """
    async with joined_node(cluster.url(database)) as one, joined_node(cluster.url(database)) as other:
        opened = (await one.commit(session())).number
        former = one.log.offset_at(0)
        cluster.sql(database, "DELETE FROM eventstore.canary")
        begun = (await one.commit(event())).number
        await other.log.append([event()])  # by then the node has seen the new epoch
        await other.until(opened)
        assert other.log.offset_at(0) == former
        await other.until(begun)
        assert other.log.offset_at(0) == one.log.offset_at(0) != former


async def a_reader_notices_another_history(cluster: Cluster, database: str) -> None:
    """A node with a replaced last batch gives out no later batch."""
    async with joined_node(cluster.url(database)) as one:
        await one.commit(event())
        cluster.sql(database, *ANOTHER_HISTORY)
        with pytest.raises(HistoryLost):
            await one.until(one.batches[-1].number + 1)


async def a_writer_notices_another_history(cluster: Cluster, database: str) -> None:
    """A node cannot append to another history than the history seen by the node."""
    async with opened_postgres(cluster.url(database)) as log:
        await log.append([event()])
        log._tail.close()  # the tail would notice, too
        cluster.sql(database, ANOTHER_HISTORY[0])
        with pytest.raises(HistoryLost):
            await log.append([event()])


# The nodes -------------------------------------------------------------------------------------------


async def a_silent_node_is_fenced(cluster: Cluster, database: str) -> None:
    """A node without a write for the lease can be declared dead: its changes have no effect any more."""
    clock, url = Clock(100.0), cluster.url(database)
    async with joined_node(url, clock=clock) as one, joined_node(url, clock=clock) as silent:
        await silent.commit(session(), event())
        death = NodeDied(silent.log.node)
        for _ in range(3):
            clock.now += 4.0
            early = await one.commit(death)
            assert not early.changes[0].took_effect, "it has not begun: it loads the sessions"
        await silent.commit(BEAT)
        for _ in range(4):
            clock.now += 2.4
            early = await one.commit(death)
            assert not early.changes[0].took_effect, "the lease has not ended"
            assert not (await silent.until(early.number)).changes[0].took_effect
        clock.now += 2.4
        died = await one.commit(death, event())
        assert died.changes[0] == Committed(death, 1)
        with pytest.raises(NodeFenced):
            await silent.log.append([DataSaved("/", "s1", '{"late":1}')])
        with pytest.raises(NodeFenced):
            async for _ in silent.log.batches():
                pass
        (found,) = (await one.log.join()).sessions
        assert (found.node, found.away_since, found.data) == (None, died.uptime, "{}")
        assert not (await one.commit(death)).changes[0].took_effect


async def a_death_confirms_what_the_floor_covers(cluster: Cluster, database: str) -> None:
    """A session counts with the floor of the node only if the node had the session at the write of the
    floor.
    """
    async with joined_node(cluster.url(database)) as one:
        async with joined_node(cluster.url(database)) as other:
            first = await other.commit(session("s1"), event(), Heartbeat(other.snapshot.batch, 0))
            await other.commit(session("s2"), event(), Heartbeat(first.number, 2))
            last = await other.commit(SessionClaimed("/", "s3"))
        left_at = await one.until(last.number + 1)
        assert left_at.changes == [Committed(NodeDied(other.log.node), 2)]
        found = [
            (stored.node, stored.away_since, stored.confirmed) for stored in (await one.log.join()).sessions
        ]
        assert found == [(None, left_at.uptime, 2), (None, left_at.uptime, 1)]


async def a_late_word_has_no_effect(cluster: Cluster, database: str) -> None:
    """The word of a former owner has no effect, on any node; a claim ends no absence."""
    clock, url = Clock(100.0), cluster.url(database)
    async with joined_node(url, clock=clock) as one, joined_node(url, clock=clock) as other:
        opened = await one.commit(session(), SessionAway("/", "s1", 1, 1.0, 0))
        clock.now += 1.0
        claim = await other.commit(SessionClaimed("/", "s1"))
        late = await one.commit(SessionAway("/", "s1", 1, 5.0, 0))
        assert not late.changes[0].took_effect
        assert not (await other.until(late.number)).changes[0].took_effect
        (found,) = (await one.log.join()).sessions
        assert (found.node, found.claim, found.claimed_in) == (other.log.node, 2, claim.number)
        assert found.away_since == opened.uptime


async def time_runs_once(cluster: Cluster, database: str) -> None:
    """The uptime belongs to the log: two nodes with heartbeats count each second once."""
    clock, url = Clock(100.0), cluster.url(database)
    async with joined_node(url, clock=clock) as one, joined_node(url, clock=clock) as other:
        begun = other.snapshot.uptime
        for second in range(1, 6):
            clock.now += 1.0
            for node in (one, other):
                assert (await node.commit(BEAT)).uptime - begun == second
        clock.now += 3600.0
        for node in (one, other):
            assert (await node.commit(BEAT)).uptime - begun == 9.0, "an outage is no service"


SCENARIOS = (
    own_batches_are_durable,
    batches_of_others_are_durable,
    snapshots_are_durable,
    a_cancelled_wait_is_no_flush,
    all_nodes_see_one_order,
    a_cut_append_is_stored_once,
    an_epoch_begins_in_an_append,
    an_offset_names_the_epoch_of_its_batch,
    a_crash_begins_one_epoch,
    a_late_batch_keeps_its_epoch,
    a_reader_notices_another_history,
    a_writer_notices_another_history,
    a_silent_node_is_fenced,
    a_death_confirms_what_the_floor_covers,
    a_late_word_has_no_effect,
    time_runs_once,
)
