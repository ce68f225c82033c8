"""The core of a server, without transports, over a log that a test can hold back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from socketio_eventlog.records import Change, Offset, Room
from socketio_eventlog.sqlite.log import EventLog
from socketio_eventstore.core.commit_queue import Dispatcher, Operation
from socketio_eventstore.core.operations import Emit, JoinRoom
from socketio_eventstore.core.packets import Frames, TextEncoder
from socketio_eventstore.core.recovery import hash_pid
from socketio_eventstore.core.replay import Replayer
from socketio_eventstore.core.session_operations import AcceptSession, MarkAway, OpenSession
from socketio_eventstore.core.sessions import ClientConnection, Registry, Session, State
from support.embedded import Server
from support.processes import DEADLINE
from support.storing import event, opened

BAD = event("\ud800")
"""A lone surrogate: the real store refuses it."""


class Recorder(ClientConnection):
    """A connection that keeps what it was given, batch by batch."""

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
        """Waits for what is written, or for the abort."""
        async with asyncio.timeout(DEADLINE):
            while not happened():
                self._written.clear()
                await self._written.wait()

    async def sent(self, count: int) -> list[str | bytes]:
        """Waits until so many packets were written; returns all of them."""
        await self.until(lambda: len(self.packets) >= count)
        return self.packets


class HeldLog:
    """A real log whose commits can be held back, and fail where a test says so."""

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self.committed: list[list[Change]] = []
        """What was committed, transaction by transaction."""
        self.failure: Callable[[Sequence[Change]], Exception | None] = lambda _: None
        self.reached = asyncio.Event()
        """A commit was asked for."""
        self._open = asyncio.Event()
        self._open.set()

    def hold(self) -> None:
        self.reached.clear()
        self._open.clear()

    def release(self) -> None:
        self._open.set()

    def fail_with(self, *errors: Exception) -> None:
        """The next commits fail so, one after the other."""
        waiting = list(errors)
        self.failure = lambda _: waiting.pop(0) if waiting else None

    @property
    def head(self) -> int:
        return self._log.head

    def offset_at(self, number: int) -> Offset:
        return self._log.offset_at(number)

    async def commit(self, changes: Sequence[Change]) -> list[int]:
        self.reached.set()
        await self._open.wait()
        if (error := self.failure(changes)) is not None:
            raise error
        positions = await self._log.commit(changes)
        self.committed.append(list(changes))
        return positions


@dataclass
class Core:
    """The core of a server, without transports: a real log, the dispatcher and the replays."""

    log: EventLog
    held: HeldLog
    registry: Registry
    dispatcher: Dispatcher
    replayer: Replayer

    async def open(self, sid: str = "s1", *, namespace: str = "/", former: str | None = None) -> Session:
        """A new session whose client is connecting; its pid is its sid."""
        session = Session(namespace, sid, hash_pid(sid), self.log.offset_at(0), former_offset=former)
        await self.dispatcher.submit(OpenSession(session, 1_000.0))
        return session

    async def accept(self, session: Session, connection: ClientConnection, cursor: int | None = None) -> bool:
        """A connection claims the session and its connect handler accepts it."""
        claim = session.attach(connection, session.start.sequence if cursor is None else cursor)
        return bool(await self.dispatcher.submit(AcceptSession(session, claim, session.sid, 1_001.0)))

    async def recover(self, session: Session, connection: ClientConnection, cursor: int) -> bool:
        """The same for a session that was away."""
        session.recovered = True
        return await self.accept(session, connection, cursor)

    async def live(self, sid: str = "s1", *rooms: Room, namespace: str = "/") -> tuple[Session, Recorder]:
        """A session that is connected, and in these rooms; what it was sent so far is forgotten."""
        connection = Recorder(f"of {sid}")
        session = await self.open(sid, namespace=namespace)
        assert await self.accept(session, connection)
        for room in rooms:
            await self.dispatcher.submit(JoinRoom(session, room))
        assert session.state is State.LIVE
        connection.batches.clear()
        return session, connection

    async def away(self, session: Session, at: float = 0.0) -> None:
        """The transport of a session ends."""
        await self.dispatcher.submit(self.leave(session, at))

    def leave(self, session: Session, at: float = 0.0) -> MarkAway:
        """As the handshake does it: away in memory at once, the turn follows."""
        session.detach()
        session.away_since = at
        session.move(State.AWAY)
        return MarkAway(session, session.claim, 1_002.0)

    async def emit(self, text: str = "hello", *rooms: Room, skip: tuple[str, ...] = ()) -> object:
        return await self.dispatcher.submit(Emit(event(text, rooms=rooms or None, skip=skip)))

    def begin(self, *turns: Operation) -> asyncio.Future[object]:
        """Give turns their place now; the future is done when they have taken effect."""
        return self.dispatcher.submit(*turns)


@asynccontextmanager
async def running(
    path: Path, *, boot: str = "boot", max_unsent_bytes: int = 1_000_000, tail_bytes: int = 1_000_000
) -> AsyncIterator[Core]:
    """A core whose offsets read ``boot.1``, ``boot.2`` …"""
    async with opened(path, new_epoch=lambda: boot) as log:
        held, registry = HeldLog(log), Registry()
        replayer = Replayer(log, max_unsent_bytes)
        dispatcher = Dispatcher(
            held, registry, TextEncoder(), tail_bytes=tail_bytes, offsets=True, catch_up=replayer.begin
        )
        replayer.dispatcher = dispatcher
        tasks = [asyncio.create_task(dispatcher.run()), asyncio.create_task(replayer.run())]
        try:
            yield Core(log, held, registry, dispatcher, replayer)
        finally:
            held.release()
            dispatcher.close()
            tasks[1].cancel()
            await asyncio.wait(tasks)
            tasks[0].result()


@asynccontextmanager
async def holding(server: Server) -> AsyncIterator[HeldLog]:
    """The commits of a running server are in the hands of the test."""
    runtime = await server.manager.start()
    assert isinstance(runtime.log, EventLog)
    runtime.dispatcher.log = held = HeldLog(runtime.log)
    try:
        yield held
    finally:
        held.failure = lambda _: None
        held.release()


def said(text: str, number: int) -> str:
    """The packet of an event of ``storing.event``."""
    return f'42["message","{text}","boot.{number}"]'


async def texts(log: EventLog) -> list[str]:
    """What is stored."""
    return [logged.event.payload for logged in await log.read(range(1, log.head + 1))]
