"""The history of a database beside the one that a node, or a former life of its process, has seen."""

from __future__ import annotations

from typing import Any, Final

from socketio_eventlog.changed_sessions import ChangedSessions, Shared
from socketio_eventlog.postgres.connection import Connection

# A missing batch proves nothing: batches are pruned by the times of the rows, and the clock may jump.
# The canary of a later epoch stays: the epoch has begun after the loss.
_DOUBT: Final = """
DELETE FROM eventstore.canary
WHERE epoch = ANY(%(epochs)s)
  AND (%(batch)s > (SELECT max(batch) FROM eventstore.batches)
       OR EXISTS (SELECT FROM eventstore.batches WHERE batch = %(batch)s AND chain <> %(chain)s))
"""
_PRESENT: Final = """
SELECT (SELECT min(batch) FROM eventstore.batches),
       %(batch)s > (SELECT max(batch) FROM eventstore.batches)
       OR EXISTS (SELECT FROM eventstore.batches WHERE batch = %(batch)s AND chain <> %(chain)s)
"""
_SHARED: Final = """
SELECT max(batch) FROM eventstore.batches
JOIN unnest(%s::bigint[], %s::bytea[]) AS known(batch, chain) USING (batch, chain)
"""


async def doubt(connection: Connection, known: ChangedSessions) -> None:
    """Let the next append or join begin an epoch, if the database lacks the last batch that a life has seen.

    Rows of an older dump that are put back leave no other trace (see ``keep_epoch`` in the migrations).
    """
    batch, chain = known.seen
    await connection.execute(_DOUBT, {"epochs": known.epochs, "batch": batch, "chain": chain})


async def shared(connection: Connection, known: ChangedSessions) -> Shared:
    """Find what the present history shares with that of a former life."""
    batch, chain = known.seen
    row: Any = await (await connection.execute(_PRESENT, {"batch": batch, "chain": chain})).fetchone()
    oldest, lacks_last = row
    pairs = known.batches_from(oldest)
    batches, chains = [batch for batch, _ in pairs], [chain for _, chain in pairs]
    row = await (await connection.execute(_SHARED, (batches, chains))).fetchone()
    return Shared(lacks_last, row[0])
