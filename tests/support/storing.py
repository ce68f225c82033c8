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
from typing import Any

from socketio_eventlog.options import StoreOptions
from socketio_eventlog.records import (
    Event,
    Membership,
    Room,
    RoomJoined,
    RoomLeft,
    SessionOpened,
)
from socketio_eventlog.sqlite.log import EventLog, random_epoch


@asynccontextmanager
async def opened(
    path: Path,
    *,
    wall_clock: Callable[[], float] = time.time,
    new_epoch: Callable[[], str] = random_epoch,
    **options: Any,
) -> AsyncIterator[EventLog]:
    log = await EventLog.open(StoreOptions(path=path, **options), wall_clock=wall_clock, new_epoch=new_epoch)
    try:
        yield log
    finally:
        await log.close()


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


def open_and_write(path: Path) -> int:
    """Open the log, commit one event, close the log; return the sequence."""

    async def commit() -> int:
        async with opened(path) as log:
            return (await log.commit([event()]))[0]

    return asyncio.run(commit())


def session(sid: str = "s1", namespace: str = "/", former_offset: str | None = None) -> SessionOpened:
    return SessionOpened(
        namespace, sid, sid.encode("utf-8", "replace").ljust(32, b"."), former_offset, 1_000.0
    )


def joined(room: Room, sid: str = "s1", namespace: str = "/") -> RoomJoined:
    return RoomJoined(namespace, sid, room)


def left(room: Room, sid: str = "s1", namespace: str = "/") -> RoomLeft:
    return RoomLeft(namespace, sid, room)


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
