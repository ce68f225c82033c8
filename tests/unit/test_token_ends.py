"""The end of many tokens at the same moment."""

from __future__ import annotations

import asyncio
import time
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

from socketio_eventstore.adapter.token_ends import ENDS_PER_STEP, TokenEnds


class Connection:
    """A connection whose only session has a token that has ended."""

    def __init__(self, ends: TokenEnds) -> None:
        current = SimpleNamespace(expires_at=time.time() - 1.0)
        self.sessions = {"/": SimpleNamespace(sid="sid", current=current)}
        self.closed = False
        self._ends = ends

    def close_after_flush(self, reason: str) -> None:
        self.closed = True
        self._ends.forget(self)  # type: ignore[arg-type]


async def test_many_tokens_end_in_steps() -> None:
    """The event loop serves others between the connections that are closed, and each one is closed."""
    application: Any = SimpleNamespace(reason=SimpleNamespace(SERVER_DISCONNECT="server disconnect"))
    ends = TokenEnds(application)
    connections: list[Any] = [Connection(ends) for _ in range(3 * ENDS_PER_STEP + 1)]
    for connection in connections:
        ends.watch(connection)
    closed = []
    while ends.ended < len(connections) - 1:
        await asyncio.sleep(0)
        closed.append(sum(connection.closed for connection in connections))
        if len(closed) == 1:  # it has left meanwhile
            connections[-1].close_after_flush("transport close")
    steps = [after - before for before, after in pairwise([0, *closed])]
    assert max(steps) <= ENDS_PER_STEP + 1  # and the one that has left
    assert all(connection.closed for connection in connections) and not ends._due
    assert ends.ended == 3 * ENDS_PER_STEP
