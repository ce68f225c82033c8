"""The limit of the events in PostgreSQL, for all nodes alike."""

from __future__ import annotations

import pytest

from socketio_eventlog.changes import Heartbeat, Pruned
from socketio_eventlog.errors import LogFull
from support import postgres
from support.postgres_nodes import Node, all_until, joined_node
from support.storing import event, session

LIMIT = 1_000_000
LARGE = "x" * 100_000


async def fill(node: Node, events: int) -> None:
    """Append so many events; the next one is refused."""
    for _ in range(events):
        await node.commit(event(LARGE))
    with pytest.raises(LogFull, match=f"max_size = {LIMIT}"):
        await node.log.append([event(LARGE)])


async def test_events_beyond_the_limit_are_refused() -> None:
    """Old events should go from the limit on; an eighth beyond it, or when none may go, events are refused.

    Everything else is stored. What was deleted makes room, on every node.
    """
    url = postgres.new_url()
    async with joined_node(url, max_size=LIMIT) as one, joined_node(url, max_size=LIMIT) as other:
        await fill(one, 12)
        await all_until((one, other), one.batches[-1].number)
        for node in (one, other):
            assert node.log.free_space.is_scarce and node.log.free_space.refusal
            with pytest.raises(LogFull):
                await node.log.append([session("s1"), event()])
            await node.commit(session(f"of {node.log.node}"), Heartbeat(node.batches[-1].number, 0))
        async with joined_node(url, max_size=LIMIT) as late:
            await late.log._counting
            with pytest.raises(LogFull):
                await late.log.append([event()])
            await one.commit(Pruned(4))
            await all_until((other, late), one.batches[-1].number)
            for node in (one, other, late):
                assert not node.log.free_space.is_scarce and node.log.free_space.refusal is None
            await fill(other, 4)
            other.log.free_space.is_pruned = True
            await other.commit(Pruned(5))
            with pytest.raises(LogFull):
                await other.log.append([event()])
