"""The history of a database beside the one that a node, or a former life of its process, has seen."""

from __future__ import annotations

from typing import Any, Final

from socketio_eventlog.changed_sessions import ChangedSessions, Shared
from socketio_eventlog.postgres.connection import Connection

# Not for a batch that was pruned, or may have been; and not in an epoch that has begun since.
_DOUBT: Final = """
DELETE FROM eventstore.canary
WHERE epoch = ANY(%s) AND %s >= (SELECT min(batch) FROM eventstore.batches)
  AND NOT EXISTS (SELECT FROM eventstore.batches WHERE batch = %s AND chain = %s)
"""
_OLDEST: Final = "SELECT min(batch) FROM eventstore.batches"
_SHARED: Final = """
SELECT max(batch) FROM eventstore.batches
JOIN unnest(%s::bigint[], %s::bytea[]) AS known(batch, chain) USING (batch, chain)
"""


async def doubt(connection: Connection, known: ChangedSessions) -> None:
    """Let the next append or join begin an epoch, if the database lacks the last batch that a life has seen.

    Rows of an older dump that are put back leave no other trace (see ``keep_epoch`` in the migrations).
    """
    batch, chain = known.seen
    await connection.execute(_DOUBT, (known.epochs, batch, batch, chain))


async def shared(connection: Connection, known: ChangedSessions) -> Shared:
    """Find what the present history shares with that of a former life."""
    row: Any = await (await connection.execute(_OLDEST)).fetchone()
    (oldest,) = row
    pairs = known.batches_from(oldest)
    batches, chains = [batch for batch, _ in pairs], [chain for _, chain in pairs]
    row = await (await connection.execute(_SHARED, (batches, chains))).fetchone()
    return Shared(oldest, row[0])
