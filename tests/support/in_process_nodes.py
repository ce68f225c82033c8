"""Several servers in the process over a simulated log, as nodes of a cluster."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from socketio_eventlog.changes import Batch, NodeDied
from socketio_eventlog.log import HEARTBEAT_SECONDS
from socketio_eventlog.snapshot import Snapshot
from socketio_eventstore.core import runtime
from socketio_eventstore.core.runtime import Runtime
from support.cluster_log import Handle, SharedLog
from support.embedded import Server, serving, until


class Clock:
    """The clock of the log, which a test sets forward."""

    def __init__(self) -> None:
        self.later = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.later


class NodeLog(Handle):
    """The log for a server; a closed log has left the cluster."""

    index_memory_bytes = 0
    changed_sessions = None

    def __init__(self, shared: SharedLog, node: str) -> None:
        super().__init__(shared, node, time.monotonic)
        self._closed = asyncio.Event()

    async def join(self) -> Snapshot:  # type: ignore[override]  # that of the histories waits for nothing
        return Handle.join(self)

    async def __anext__(self) -> Batch:
        giving_out, closing = (
            asyncio.create_task(super().__anext__()),
            asyncio.create_task(self._closed.wait()),
        )
        try:
            await asyncio.wait([giving_out, closing], return_when=asyncio.FIRST_COMPLETED)
            if giving_out.done():
                return giving_out.result()
            raise StopAsyncIteration
        finally:
            giving_out.cancel()
            closing.cancel()

    async def acknowledgement(self, namespace: str, name: str, identity: str, key: str) -> str | None:
        return None

    async def close(self) -> None:
        if not self.is_closed:
            self.is_closed = True
            if self.node in self.state.nodes:
                self.shared.append(self.node, self._appends + 1, (NodeDied(self.node),))
            self.shared.handles.remove(self)
        self._closed.set()


class Nodes:
    """The servers, and the shared log."""

    def __init__(self, servers: list[Server], shared: SharedLog, clock: Clock) -> None:
        self.servers = servers
        self.shared = shared
        self._clock = clock

    def node(self, at: int) -> Runtime:
        """The present life of a server."""
        running = self.servers[at].manager.runtime
        assert running is not None
        return running

    def log(self, at: int) -> NodeLog:
        """The log of the present life of a server."""
        log = self.node(at).log
        assert isinstance(log, NodeLog)
        return log

    def count(self, kind: type) -> int:
        """The number of changes of a kind in the log."""
        changes = [one.change for batch in self.shared.batches for one in batch.changes]
        return sum(isinstance(change, kind) for change in changes)

    async def pass_a_lease(self, at: int) -> None:
        """Let time pass, with heartbeats of one server."""
        node = await self.servers[at].manager.start()
        for _ in range(4):
            self._clock.later += 2 * HEARTBEAT_SECONDS
            await node.lease.beat()

    async def pass_time(self, seconds: float) -> None:
        """Let time pass, with heartbeats of all servers."""
        while seconds > 0.0:
            step = min(seconds, 2 * HEARTBEAT_SECONDS)
            self._clock.later += step
            seconds -= step
            for at in range(len(self.servers)):
                await self.node(at).lease.beat()

    async def until_applied(self) -> None:
        """Wait until every node has applied everything."""
        for server in self.servers:
            node = await server.manager.start()
            await until(lambda node=node: node.context.nodes.batch == self.shared.state.batch)  # type: ignore[misc]


@asynccontextmanager
async def nodes(
    patch: pytest.MonkeyPatch,
    register: Callable[[Any], None] = lambda _: None,
    *,
    count: int = 2,
    recovery: Mapping[str, Any] | None = None,
    **options: Any,
) -> AsyncIterator[Nodes]:
    """Run servers that share a log; ``register`` is called for each server."""
    clock = Clock()
    shared, names = SharedLog(clock, lambda _: None), itertools.count(1)

    async def open_log(*_: object, **__: object) -> NodeLog:
        return NodeLog(shared, f"node{next(names)}")

    patch.setattr(runtime, "open_log", open_log)
    async with AsyncExitStack() as stack:
        servers = []
        for _ in range(count):
            server = await stack.enter_async_context(
                serving(None, recovery=recovery, register=register, **options)
            )
            await server.sio.start()
            servers.append(server)
        running = Nodes(servers, shared, clock)
        await running.until_applied()
        yield running
