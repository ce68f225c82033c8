"""The start of a node on a database: the node joins beside living nodes, and reads the stored state."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from socketio_eventlog.altered import AlteredRange
from socketio_eventlog.changed_sessions import ChangedSessions, Shared
from socketio_eventlog.index import Index
from socketio_eventlog.offsets import Epochs
from socketio_eventlog.options import StoreOptions
from socketio_eventlog.postgres import altered, segments
from socketio_eventlog.postgres.connection import (
    LONG_SECONDS,
    Connection,
    Link,
    flush,
    reporting_failed_flush,
)
from socketio_eventlog.postgres.events import Seen
from socketio_eventlog.postgres.lost_history import doubt, shared
from socketio_eventlog.postgres.schema import READER

logger = logging.getLogger(__name__)

_JOIN: Final = "SELECT eventstore.join_log(%s, %s, %s, %s, %s, %s, %s, %s)"
_REPEATABLE: Final = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"
_HEAD: Final = """
SELECT batch, chain, epoch, last, uptime, pruned_through FROM eventstore.batches, eventstore.log_state
ORDER BY batch DESC LIMIT 1
"""
_OTHERS: Final = "SELECT node FROM eventstore.nodes WHERE node <> %s"
_EPOCHS: Final = "SELECT epoch, began_after, began_in FROM eventstore.epochs ORDER BY number"
_FSYNC: Final = "SELECT current_setting('fsync')"
_LOST: Final = (
    "%s has lost the events %s to %s: rows were deleted. A client that missed one of them gets a new session."
)


@dataclass(frozen=True, slots=True)
class InitialState:
    """The state of the database after the node had joined."""

    seen: Seen
    epoch: str
    epochs: Epochs
    begun: Sequence[tuple[str, int]]
    """All epochs, each with its first batch."""
    head: int
    pruned_through: int
    uptime: float
    index: Index
    segments: Sequence[tuple[int, int]]
    """The first sequence and the length of each stored segment of the index."""
    altered: Sequence[AlteredRange]
    altered_numbers: tuple[int, int]
    others: Sequence[str]
    """The other living nodes."""
    shared: Shared | None = None
    """What the history shares with that of a former life of the process; None without a former life."""


async def begin(
    link: Link,
    node: str,
    name: str,
    clock: Callable[[], float] | None,
    new_epoch: Callable[[], str],
    options: StoreOptions,
    max_disconnection_seconds: float | None,
    former: ChangedSessions | None = None,
) -> InitialState:
    """Join the log as a node, beside other nodes, and read the stored state.

    ``name``: the database for people. ``clock`` and ``former`` are as in ``PostgresLog.open``. Raises
    StoreError.
    """
    known = (options.session_history, max_disconnection_seconds)
    async with link.use(LONG_SECONDS) as connection:
        if options.synchronous == "full":
            await _warn_without_flush(connection, name)
        if former is not None:
            await doubt(connection, former)
        for first, last in await _join(connection, node, new_epoch(), clock, known):
            logger.warning(_LOST, name, first, last)
        async with reporting_failed_flush(connection), connection.transaction():
            await connection.execute(_REPEATABLE)
            state = await _read(connection, node, options)
            if former is not None:
                state = replace(state, shared=await shared(connection, former))
            await flush(connection)
        return state


async def _warn_without_flush(connection: Connection, name: str) -> None:
    row: Any = await (await connection.execute(_FSYNC)).fetchone()
    if row == ("off",):
        logger.warning("%s has fsync = off: a loss of power may destroy the whole database.", name)


async def _join(
    connection: Connection,
    node: str,
    epoch: str,
    clock: Callable[[], float] | None,
    known: tuple[object, ...],
) -> list[tuple[int, int]]:
    """Record the node; return the ranges of lost events.

    Only the first statement holds the lock of the log: a node frozen later does not stop others.
    """
    address = f"{socket.gethostname()}, process {os.getpid()}"
    now = None if clock is None else clock()
    await connection.execute(_JOIN, (node, address, connection.info.backend_pid, epoch, now, *known, READER))
    unwritten = await segments.end_of_stored(connection)
    # A lost event in a segment is noticed when a client needs the event: a count would delay the start.
    lost = await altered.note_lost(connection, unwritten)
    await altered.lose_audience(connection, unwritten)
    return lost


async def _read(connection: Connection, node: str, options: StoreOptions) -> InitialState:
    row: Any = await (await connection.execute(_HEAD)).fetchone()
    batch, chain, epoch, head, uptime, pruned_through = row
    others: Any = await (await connection.execute(_OTHERS, (node,))).fetchall()
    begun = await epochs_begun(connection)
    index, stored = await segments.load(connection, pruned_through, options.index_memory)
    return InitialState(
        Seen(batch, chain),
        epoch,
        Epochs((one, after) for one, after, _ in begun),
        [(one, in_batch) for one, _, in_batch in begun],
        head,
        pruned_through,
        uptime,
        index,
        stored,
        await altered.ranges(connection),
        await altered.numbers(connection),
        [one for (one,) in others],
    )


async def epochs_begun(connection: Connection) -> list[tuple[str, int, int]]:
    """Read all epochs: each with the last sequence before the epoch, and the epoch's first batch."""
    rows: list[Any] = await (await connection.execute(_EPOCHS)).fetchall()
    return rows
