"""The reads of sessions and keys. Each read has an effect, so the result is durable at the return."""

from __future__ import annotations

import json
from collections import defaultdict
from functools import lru_cache
from typing import Any, Final

from socketio_eventlog.events import Offset, Publication, Room
from socketio_eventlog.postgres.connection import Connection, flush, reporting_failed_flush
from socketio_eventlog.postgres.events import Seen
from socketio_eventlog.session_rows import stored_sessions
from socketio_eventlog.snapshot import Membership, NodeRecord, Snapshot, StoredSession

_SESSIONS: Final = """
SELECT namespace, sid, pid_hash, start_epoch, start_offset, former_offset, identity, data, away_since,
       confirmed, auth_hash, left_by_client, claim, claimed_in, node, token_expires_at, token_rooms
FROM eventstore.sessions ORDER BY number
"""
_MEMBERSHIPS: Final = """
SELECT namespace, sid, room, joined_after, left_after
FROM eventstore.rooms JOIN eventstore.sessions USING (namespace, sid)
WHERE left_after IS NULL OR left_after > greatest(confirmed, %s) ORDER BY joined_after
"""
_POSITIONS: Final = "SELECT uptime, position FROM eventstore.positions ORDER BY number"
# With a flush for each found row.
_ACKNOWLEDGEMENT: Final = """
SELECT answer, set_config('synchronous_commit', 'on', true), pg_logical_emit_message(true, 'eventstore', '')
FROM eventstore.answers WHERE namespace = %s AND event = %s AND identity = %s AND key = %s
"""
_PUBLICATION: Final = """
SELECT digest, epoch, last_offset, events,
       set_config('synchronous_commit', 'on', true), pg_logical_emit_message(true, 'eventstore', '')
FROM eventstore.publications WHERE publisher = %s AND key = %s
"""
_COUNTS: Final = """
SELECT (SELECT count(*) FROM eventstore.sessions), (SELECT count(*) FROM eventstore.events)
"""
_PRUNE_ANSWERS: Final = """
DELETE FROM eventstore.answers WHERE ctid = ANY(ARRAY(
  SELECT ctid FROM eventstore.answers WHERE answered_at < %s ORDER BY answered_at LIMIT %s))
"""
_PRUNE_PUBLICATIONS: Final = """
DELETE FROM eventstore.publications WHERE ctid = ANY(ARRAY(
  SELECT ctid FROM eventstore.publications WHERE published_at < %s ORDER BY published_at LIMIT %s))
"""
_PRUNE_BATCHES: Final = "SELECT eventstore.prune_batches(%s)"
_HEAD: Final = """
SELECT batch, chain, last, uptime, pruned_through FROM eventstore.batches, eventstore.log_state
ORDER BY batch DESC LIMIT 1
"""
# As eventstore.other_nodes: it shows only where the connections of a node reach this server directly.
_MAY_LIVE: Final = """
SELECT backend IS NULL OR coalesce(backend_start < pg_postmaster_start_time(), true) OR EXISTS (
  SELECT FROM pg_stat_activity AS a WHERE right(a.application_name, length(n.node) + 1) = ' ' || n.node)
FROM eventstore.nodes AS n WHERE node = %s
"""
_NODES: Final = "SELECT node, uptime, applied, floor FROM eventstore.living_nodes() ORDER BY number"
_REPEATABLE: Final = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"


@lru_cache(maxsize=1024)
def _room(text: str) -> Room:
    """Return a room from JSON."""
    room: Room = json.loads(text)
    return room


async def snapshot(connection: Connection) -> tuple[Seen, Snapshot]:
    """Read the state at a point of the order; return the last batch and the state."""
    # The wait for a standby is at the end of the transaction.
    async with reporting_failed_flush(connection), connection.transaction():
        await connection.execute(_REPEATABLE)
        row: Any = await (await connection.execute(_HEAD)).fetchone()
        batch, chain, position, uptime, pruned_through = row
        rows: Any = await (await connection.execute(_NODES)).fetchall()
        positions: Any = await (await connection.execute(_POSITIONS)).fetchall()
        found = await _sessions(connection, pruned_through)
        await flush(connection)  # here: behind a proxy, the next transaction may reach another server
    nodes = tuple(NodeRecord(*row) for row in rows)
    return Seen(batch, chain), Snapshot(batch, position, uptime, nodes, tuple(positions), tuple(found))


async def _sessions(connection: Connection, pruned_through: int) -> list[StoredSession]:
    """Load all sessions, in the order of opening, with the memberships with events."""
    memberships: defaultdict[tuple[str, str], list[Membership]] = defaultdict(list)
    cursor: Any = await connection.execute(_MEMBERSHIPS, (pruned_through,))
    for namespace, sid, room, joined_after, left_after in await cursor.fetchall():
        memberships[namespace, sid].append(Membership(_room(room), joined_after, left_after))
    cursor = await connection.execute(_SESSIONS)
    return stored_sessions(await cursor.fetchall(), memberships)


async def acknowledgement(
    connection: Connection, namespace: str, name: str, identity: str, key: str
) -> str | None:
    """Return the acknowledgement of a key, a JSON array; None for a new key."""
    async with reporting_failed_flush(connection):
        row = await (await connection.execute(_ACKNOWLEDGEMENT, (namespace, name, identity, key))).fetchone()
    return None if row is None else str(row[0])


async def publication(connection: Connection, publisher: str, key: str) -> Publication | None:
    """Return the publication under a key; None for a new key."""
    async with reporting_failed_flush(connection):
        row: Any = await (await connection.execute(_PUBLICATION, (publisher, key))).fetchone()
    if row is None:
        return None
    digest, epoch, last, events, *_ = row
    return Publication(digest, Offset(epoch, last), events)


async def prune_keys(connection: Connection, before: float, limit: int) -> int:
    """Delete the oldest keys from before an uptime; return the larger number of both kinds."""
    answers = await connection.execute(_PRUNE_ANSWERS, (before, limit))
    publications = await connection.execute(_PRUNE_PUBLICATIONS, (before, limit))
    return max(answers.rowcount, publications.rowcount)


async def prune_batches(connection: Connection, through: int) -> None:
    """Delete batches before a number that are older than a minute and not needed by any node."""
    await connection.execute(_PRUNE_BATCHES, (through,))


async def vacuum(connection: Connection) -> None:
    """Remove deleted and replaced rows from the tables of events, unless another program reads them."""
    await connection.execute("VACUUM eventstore.events, eventstore.attachments")


async def may_live(connection: Connection, node: str) -> bool:
    """Return False for a node that is gone, or whose connections are all closed."""
    row: Any = await (await connection.execute(_MAY_LIVE, (node,))).fetchone()
    return row is not None and bool(row[0])


async def counts(connection: Connection) -> tuple[int, int]:
    """Return the number of sessions and the number of events."""
    row: Any = await (await connection.execute(_COUNTS)).fetchone()
    return row[0], row[1]
