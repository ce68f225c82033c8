"""Common parts of the store's tests: logs with a close, and records with all fields."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from socketio_eventlog.changes import Batch, Change, Heartbeat
from socketio_eventlog.events import Event, Room
from socketio_eventlog.log import LEASE_SECONDS, Log
from socketio_eventlog.offsets import random_epoch
from socketio_eventlog.options import StoreOptions
from socketio_eventlog.session_changes import RoomJoined, RoomLeft, SessionEnd, SessionEnded, SessionOpened
from socketio_eventlog.snapshot import Membership, StoredSession
from socketio_eventlog.sqlite.log import EventLog

if TYPE_CHECKING:
    from socketio_eventlog.postgres.log import PostgresLog


@asynccontextmanager
async def opened(
    path: Path,
    *,
    wall_clock: Callable[[], float] = time.time,
    monotonic: Callable[[], float] = time.monotonic,
    new_epoch: Callable[[], str] = random_epoch,
    max_disconnection_seconds: float | None = None,
    **options: Any,
) -> AsyncIterator[EventLog]:
    log = await EventLog.open(
        StoreOptions(path=path, **options),
        wall_clock=wall_clock,
        monotonic=monotonic,
        new_epoch=new_epoch,
        max_disconnection_seconds=max_disconnection_seconds,
    )
    try:
        yield log
    finally:
        await log.close()


@asynccontextmanager
async def opened_postgres(
    url: str,
    *,
    clock: Callable[[], float] | None = None,
    new_epoch: Callable[[], str] = random_epoch,
    lease_seconds: float = LEASE_SECONDS,
    max_disconnection_seconds: float | None = None,
    **options: Any,
) -> AsyncIterator[PostgresLog]:
    from socketio_eventlog.postgres.log import PostgresLog  # here: psycopg is an extra

    log = await PostgresLog.open(
        StoreOptions(path=None, url=url, **options),
        clock=clock,
        new_epoch=new_epoch,
        lease_seconds=lease_seconds,
        max_disconnection_seconds=max_disconnection_seconds,
    )
    try:
        yield log
    finally:
        await log.close()


async def append(log: Log, changes: Sequence[Change]) -> Batch:
    """Append the changes and read the log up to the batch; for a log without another reader."""
    number = await log.append(changes)
    async for batch in log.batches():
        if batch.number == number:
            return batch
    raise AssertionError("the log ended before the batch")


async def commit(log: Log, changes: Sequence[Change]) -> list[int]:
    """Append the changes as ``append`` does; return the position of each."""
    return [committed.position for committed in (await append(log, changes)).changes]


async def stored_sessions(log: Log) -> list[StoredSession]:
    """The sessions for a node that joins now."""
    return list((await log.join()).sessions)


class Clock:
    """A clock moved by the test."""

    def __init__(self, now: float = 0.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def event(
    text: str = "hello",
    *,
    rooms: tuple[Room, ...] | None = None,
    namespace: str = "/",
    attachments: tuple[bytes, ...] = (),
    skip: tuple[str, ...] = (),
    emitted_at: float = 1_000.0,
) -> Event:
    payload = f'["message","{text}"]'
    return Event(namespace, "message", payload, attachments, rooms, skip, emitted_at)


BEAT = Heartbeat(applied=0, floor=0)


def open_and_write(path: Path) -> int:
    """Open the log, commit one event, close the log; return the sequence."""

    async def open_and_commit() -> int:
        async with opened(path) as log:
            return (await commit(log, [event()]))[0]

    return asyncio.run(open_and_commit())


def session(sid: str = "s1", namespace: str = "/", former_offset: str | None = None) -> SessionOpened:
    return SessionOpened(
        namespace, sid, sid.encode("utf-8", "replace").ljust(32, b"."), former_offset, 1_000.0
    )


def joined(room: Room, sid: str = "s1", namespace: str = "/") -> RoomJoined:
    return RoomJoined(namespace, sid, room)


def left(room: Room, sid: str = "s1", namespace: str = "/") -> RoomLeft:
    return RoomLeft(namespace, sid, room)


def ended(sid: str = "s1", namespace: str = "/", claim: int | None = None) -> SessionEnded:
    return SessionEnded(namespace, sid, SessionEnd.TRANSPORT, claim)


def always(*rooms: Room | None) -> list[Membership]:
    return [Membership(room, 0, None) for room in rooms]


def sqlite(path: Path, *arguments: str) -> str:
    """Return the output of the sqlite3 program."""
    done = subprocess.run(["sqlite3", str(path), *arguments], check=True, capture_output=True, text=True)
    return done.stdout


def python(code: str, *arguments: str | Path, **options: Any) -> subprocess.Popen[str]:
    """Start a Python process with this code."""
    command: Sequence[str] = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, **options)


def put_back(copy: Path, database: Path) -> None:
    shutil.rmtree(database.parent)
    database.parent.mkdir()
    shutil.copy(copy, database)
