"""Several nodes on a database, in a single process; and each node's state from the batches."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from socketio_eventlog.changes import Batch, Change
from socketio_eventlog.snapshot import Snapshot
from support.storing import opened_postgres

if TYPE_CHECKING:
    from socketio_eventlog.postgres.log import PostgresLog


class Node:
    """A log, and the batches after the snapshot."""

    def __init__(self, log: PostgresLog, snapshot: Snapshot) -> None:
        self.log = log
        self.snapshot = snapshot
        self.batches: list[Batch] = []

    async def until(self, number: int) -> Batch:
        """Read up to a batch; return the batch."""
        while not self.batches or self.batches[-1].number < number:
            self.batches.append(await anext(self.log.batches()))
        return next(batch for batch in self.batches if batch.number == number)

    async def commit(self, *changes: Change) -> Batch:
        """Append changes, and read up to the batch."""
        return await self.until(await self.log.append(changes))

    @property
    def story(self) -> list[Batch]:
        """The batches, in the same form on every node: without the own numbers."""
        return [batch._replace(own=None, changes=tuple(batch.changes)) for batch in self.batches]


@asynccontextmanager
async def joined_node(url: str, **arguments: Any) -> AsyncIterator[Node]:
    """A joined node, which leaves at the end."""
    async with opened_postgres(url, **arguments) as log:
        yield Node(log, await log.join())


async def all_until(nodes: Sequence[Node], number: int) -> None:
    """Let all nodes read up to a batch."""
    await asyncio.gather(*(node.until(number) for node in nodes))
