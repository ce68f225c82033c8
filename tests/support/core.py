"""The core of a server, without transports, over a pausable log."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

from socketio_eventlog.changes import Answered, Asked, Change
from socketio_eventlog.errors import StoreError
from socketio_eventlog.events import Room
from socketio_eventlog.log import Log
from socketio_eventlog.session_changes import SessionEnd, SessionOpened
from socketio_eventlog.sqlite.log import EventLog
from socketio_eventstore.core.commit_queue import CommitQueue
from socketio_eventstore.core.context import Context
from socketio_eventstore.core.fan_out import FanOut
from socketio_eventstore.core.flush_schedule import FlushSchedule
from socketio_eventstore.core.frames import Frames
from socketio_eventstore.core.listener import SessionListener
from socketio_eventstore.core.nodes import Nodes
from socketio_eventstore.core.operation import Operation
from socketio_eventstore.core.operations import Emit, JoinRoom
from socketio_eventstore.core.packets import TextEncoder
from socketio_eventstore.core.position_history import PositionHistory
from socketio_eventstore.core.recent_events import RecentEvents
from socketio_eventstore.core.recovery import hash_pid
from socketio_eventstore.core.registry import Registry
from socketio_eventstore.core.replay import Replayer
from socketio_eventstore.core.session_operations import (
    AcceptSession,
    ClaimSession,
    MarkAway,
    OpenSession,
    ResumeSession,
)
from socketio_eventstore.core.sessions import ClientConnection, Session, SessionConnection, State
from support.embedded import Server
from support.new_databases import create_database
from support.processes import DEADLINE
from support.storing import event, opened

BAD = event("\ud800")
"""A lone surrogate: the real store refuses it."""


class Recorder(ClientConnection):
    """A connection that records the packets of each batch."""

    def __init__(self, connection_id: str = "connection") -> None:
        super().__init__(connection_id)
        self.batches: list[list[str | bytes]] = []
        self.aborted: list[str] = []
        self.unsent = 0
        self._written = asyncio.Event()

    @property
    def packets(self) -> list[str | bytes]:
        return [packet for batch in self.batches for packet in batch]

    def write(self, batch: Sequence[Frames]) -> None:
        if not self.aborted:
            self.batches.append([packet for frames in batch for packet in frames.packets])
            self._written.set()

    def abort(self, reason: str) -> None:
        self.aborted.append(reason)
        self._written.set()

    @property
    def unsent_bytes(self) -> int:
        return self.unsent

    async def until(self, happened: Callable[[], bool]) -> None:
        """Waits for a condition, which every write and the abort check."""
        async with asyncio.timeout(DEADLINE):
            while not happened():
                self._written.clear()
                await self._written.wait()

    async def sent(self, count: int) -> list[str | bytes]:
        """Waits for ``count`` written packets; returns all packets."""
        await self.until(lambda: len(self.packets) >= count)
        return self.packets


class PausableLog:
    """A real log with commits that a test can pause and fail."""

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self.transactions: list[list[Change]] = []
        """The changes of each committed transaction."""
        self.failure: Callable[[Sequence[Change]], Exception | None] = lambda _: None
        self.reached = asyncio.Event()
        """A commit has been requested."""
        self._open = asyncio.Event()
        self._open.set()

    def pause(self) -> None:
        self.reached.clear()
        self._open.clear()

    def resume(self) -> None:
        self._open.set()

    def fail_with(self, *errors: Exception) -> None:
        """The next commits raise the errors, an error each."""
        waiting = list(errors)
        self.failure = lambda _: waiting.pop(0) if waiting else None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)

    def append(self, changes: Sequence[Change]) -> asyncio.Future[int]:
        return asyncio.ensure_future(self._append(list(changes)))

    async def _append(self, changes: list[Change]) -> int:
        self.reached.set()
        await self._open.wait()
        if (error := self.failure(changes)) is not None:
            self._log._appends += 1  # the log counts failed calls, too
            raise error
        appending = self._log.append(changes)
        self.transactions.append(changes)
        return await appending


class Listener:
    """Records the calls of the core, and runs no handler."""

    def __init__(self) -> None:
        self.superseding: list[Session] = []
        self.ends: list[tuple[Session, SessionEnd]] = []

    def superseded(self, session: Session, connection: ClientConnection) -> None:
        self.superseding.append(session)

    def ended(
        self, session: Session, connection: ClientConnection | None, reason: SessionEnd, *, was_accepted: bool
    ) -> None:
        self.ends.append((session, reason))

    def claimed_elsewhere(self, session: Session, claim: int) -> None:
        raise NotImplementedError

    def departed(self, session: Session) -> None:
        raise NotImplementedError

    def asked(self, node: str, asked: Asked) -> Callable[[Session], Frames]:
        raise NotImplementedError

    def answered(self, answered: Answered) -> None:
        raise NotImplementedError

    def lost(self, reason: str) -> None:
        raise NotImplementedError

    async def expired(self, session: Session) -> None:
        raise NotImplementedError


@dataclass
class Core:
    """The core of a server, without transports: a real log, the commit queue and the replays."""

    log: EventLog
    commits: PausableLog
    registry: Registry
    queue: CommitQueue
    replayer: Replayer

    @property
    def context(self) -> Context:
        return self.queue.context

    async def open(
        self,
        sid: str = "s1",
        connection: ClientConnection | None = None,
        *,
        namespace: str = "/",
        former: str | None = None,
    ) -> Session:
        """A new session of a connecting client; the pid equals the sid."""
        opened = SessionOpened(namespace, sid, hash_pid(sid), former, 1_000.0)
        session = await self.queue.submit(OpenSession(opened, connection or Recorder(f"opens {sid}")))
        assert isinstance(session, Session)
        return session

    async def accept(self, session: Session) -> bool:
        """The connect handler accepts a new session."""
        return bool(await self.queue.submit(AcceptSession(session, session.current, session.sid)))

    async def claim(self, session: Session, connection: ClientConnection) -> SessionConnection:
        """A connection claims the session."""
        attached = await self.queue.submit(ClaimSession(session, connection))
        assert isinstance(attached, SessionConnection)
        return attached

    async def resume(self, session: Session, attached: SessionConnection, cursor: int) -> bool:
        """The connect handler accepts the claim of a client with the events up to a cursor."""
        attached.sent = cursor
        return bool(await self.queue.submit(ResumeSession(session, attached, session.sid, 1_001.0)))

    async def recover(self, session: Session, connection: ClientConnection, cursor: int) -> bool:
        """A client with the events up to a cursor claims the session and is accepted."""
        return await self.resume(session, await self.claim(session, connection), cursor)

    async def live(self, sid: str = "s1", *rooms: Room, namespace: str = "/") -> tuple[Session, Recorder]:
        """A live session in rooms, with a connection without recorded packets."""
        connection = Recorder(f"of {sid}")
        session = await self.open(sid, connection, namespace=namespace)
        assert await self.accept(session)
        for room in rooms:
            await self.queue.submit(JoinRoom(session, room))
        assert session.state is State.LIVE
        connection.batches.clear()
        return session, connection

    async def away(self, session: Session) -> None:
        """The transport of a session ends."""
        await self.queue.submit(self.leave(session))

    def leave(self, session: Session) -> MarkAway:
        """As in the departures: the session is away at once; the caller submits the operation."""
        claim = session.current.claim
        self.registry.detach(session)
        session.move(State.AWAY)
        return MarkAway(session, claim, 1_002.0)

    async def emit(self, text: str = "hello", *rooms: Room, skip: tuple[str, ...] = ()) -> object:
        return await self.queue.submit(Emit(event(text, rooms=rooms or None, skip=skip)))

    def begin(self, *operations: Operation) -> asyncio.Future[object]:
        """Submit operations now; the future ends with their effect."""
        return self.queue.submit(*operations)


@asynccontextmanager
async def running(
    path: Path,
    *,
    epoch: str = "boot",
    max_unsent_bytes: int = 1_000_000,
    tail_bytes: int = 1_000_000,
    listener: SessionListener | None = None,
    monotonic: Callable[[], float] = time.monotonic,
    retention_seconds: float = 1.0,
) -> AsyncIterator[Core]:
    """A core with the offsets ``boot.1``, ``boot.2`` …"""
    create_database(path)
    async with opened(path, new_epoch=lambda: epoch, monotonic=monotonic) as log:
        snapshot = await log.join()
        commits, registry, encoder = PausableLog(log), Registry(), TextEncoder()
        for stored in snapshot.sessions:
            registry.add(Session.restore(stored))
        fan_out, recent_events = FanOut(registry), RecentEvents(snapshot.position, tail_bytes)
        replayer = Replayer(log, registry, recent_events, fan_out, encoder, max_unsent_bytes=max_unsent_bytes)
        context = Context(
            cast("Log", commits),
            registry,
            Nodes(log.node, snapshot),
            fan_out,
            encoder,
            recent_events,
            PositionHistory(retention_seconds, snapshot.positions),
            replayer.begin,
            listener or Listener(),
        )
        queue = CommitQueue(context, FlushSchedule(fan_out))
        appending = asyncio.create_task(queue.run())
        others = [asyncio.create_task(queue.take_effects()), asyncio.create_task(replayer.run())]
        try:
            yield Core(log, commits, registry, queue, replayer)
        finally:
            commits.resume()
            queue.close()
            await asyncio.wait([appending])
            for task in others:
                task.cancel()
            await asyncio.wait(others)
            appending.result()


@asynccontextmanager
async def pausable_log(server: Server) -> AsyncIterator[PausableLog]:
    """A running server with commits that the test can pause and fail, heartbeats included."""
    runtime = await server.manager.start()
    assert isinstance(runtime.log, EventLog)
    commits = PausableLog(runtime.log)
    appending = runtime.queue.appending
    appending.context = replace(appending.context, log=cast("Log", commits))
    try:
        yield commits
    finally:
        commits.failure = lambda _: None
        commits.resume()


@asynccontextmanager
async def pausable_commits(server: Server) -> AsyncIterator[PausableLog]:
    """A running server with commits that the test can pause and fail.

    The server writes no heartbeats, which would come between the operations of the test every two seconds: as
    a further transaction or operation in a count, or as the commit that raises the test's error.
    """
    runtime = await server.manager.start()
    heartbeat, runtime.health._heartbeat = runtime.health._heartbeat, partial(asyncio.sleep, 0)
    with suppress(StoreError):
        await runtime.lease.beat()  # after the heartbeats under way
    try:
        async with pausable_log(server) as commits:
            yield commits
    finally:
        runtime.health._heartbeat = heartbeat


def said(text: str, sequence: int) -> str:
    """The packet of an event of ``storing.event``."""
    return f'42["message","{text}","boot.{sequence}"]'


async def texts(log: EventLog) -> list[str]:
    """The payloads of the stored events."""
    return [logged.event.payload for logged in await log.read(range(1, log.head + 1))]


async def context_of(log: Log) -> Context:
    """A context over a log, without sessions and replays."""
    registry, snapshot = Registry(), await log.join()
    return Context(
        log,
        registry,
        Nodes(log.node, snapshot),
        FanOut(registry),
        TextEncoder(),
        RecentEvents(snapshot.position, 1),
        PositionHistory(1.0),
        lambda session: None,
        Listener(),
    )
