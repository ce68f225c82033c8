"""The start of a node on a database: it waits for the end of another server, then begins an epoch."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from socketio_eventlog.altered import AlteredRanges
from socketio_eventlog.errors import StoreInUse
from socketio_eventlog.index import Index
from socketio_eventlog.offsets import Epochs
from socketio_eventlog.options import StoreOptions
from socketio_eventlog.postgres import altered, segments
from socketio_eventlog.postgres.connection import Connection, Link
from socketio_eventlog.postgres.events import Seen

logger = logging.getLogger(__name__)

OPENING_TIMEOUT_SECONDS: Final = 10.0
"""Time to wait for another server, which may be in its shutdown."""

_OTHER: Final = "SELECT eventstore.other_node(%s, %s)"
_JOIN: Final = "SELECT eventstore.join_alone(%s, %s, %s, %s, %s)"
_HEAD: Final = """
SELECT batch, chain, last, uptime, pruned_through FROM eventstore.batches, eventstore.log_state
ORDER BY batch DESC LIMIT 1
"""
_EPOCHS: Final = "SELECT epoch, began_after FROM eventstore.epochs ORDER BY number"
_LOST: Final = (
    "%s has lost the events %s to %s: rows were deleted. A client that missed one of them gets a new session."
)


@dataclass(frozen=True, slots=True)
class InitialState:
    """The state of the database when the epoch of this node had begun."""

    seen: Seen
    epochs: Epochs
    head: int
    pruned_through: int
    uptime: float
    index: Index
    altered: AlteredRanges
    altered_numbers: tuple[int, int]


async def begin(
    link: Link,
    node: str,
    name: str,
    clock: Callable[[], float] | None,
    options: StoreOptions,
    timeout_seconds: float | None,
    max_disconnection_seconds: float | None,
) -> InitialState:
    """Record the node and its epoch, and read the stored state.

    ``name``: the database for people. ``clock`` is that of ``PostgresLog.open``. Raises StoreError, and
    StoreInUse while another server lives.
    """
    loop = asyncio.get_running_loop()
    timeout = OPENING_TIMEOUT_SECONDS if timeout_seconds is None else timeout_seconds
    deadline = loop.time() + timeout
    async with link.use() as connection:
        while (other := await _other(connection, node, clock)) is not None:
            if loop.time() >= deadline:
                raise StoreInUse(f"{name} is in use by another server ({other}).")
            await asyncio.sleep(0.05)
        known = (options.session_history, max_disconnection_seconds)
        lost = await _join(connection, node, clock, known)
        row: Any = await (await connection.execute(_HEAD)).fetchone()
        batch, chain, head, uptime, pruned_through = row
        for first, last in lost:
            logger.warning(_LOST, name, first, last)
        return InitialState(
            Seen(batch, chain),
            await epochs(connection),
            head,
            pruned_through,
            uptime,
            await segments.load(connection, pruned_through, options.index_memory),
            AlteredRanges(await altered.ranges(connection)),
            await altered.numbers(connection),
        )


async def _other(connection: Connection, node: str, clock: Callable[[], float] | None) -> object:
    now = None if clock is None else clock()
    row: Any = await (await connection.execute(_OTHER, (node, now))).fetchone()
    return row[0]


async def _join(
    connection: Connection, node: str, clock: Callable[[], float] | None, known: tuple[object, ...]
) -> list[tuple[int, int]]:
    """Record the node; return the ranges of events that are gone. Durable with the end of the transaction."""
    address = f"{socket.gethostname()}, process {os.getpid()}"
    async with connection.transaction():
        now = None if clock is None else clock()
        await connection.execute(_JOIN, (node, address, now, *known))
        row: Any = await (await connection.execute(_HEAD)).fetchone()
        _, _, head, _, pruned_through = row
        stored = await segments.ends(connection)
        unwritten = stored[-1][1] if stored else 0
        # An event that a segment names is missed when a client needs it: a count would delay the start.
        lost = await altered.note_lost(connection, max(pruned_through, unwritten - 1), head)
        await altered.lose_audience(connection, unwritten)
    return lost


async def epochs(connection: Connection) -> Epochs:
    """Read all epochs."""
    rows: list[Any] = await (await connection.execute(_EPOCHS)).fetchall()
    return Epochs(rows)
