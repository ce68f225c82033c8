"""The redaction of an event: in memory, in the file, and for those who have not received it."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any, cast

import pytest

from socketio_eventlog.changes import Redacted
from socketio_eventlog.log import Log
from socketio_eventlog.sqlite import check, copies
from socketio_eventlog.sqlite.log import EventLog
from socketio_eventstore.adapter.administration import Administration
from socketio_eventstore.adapter.maintenance import EventNotFound
from socketio_eventstore.adapter.messages import MessageRefused
from socketio_eventstore.core.event_pages import EventFilter
from socketio_eventstore.core.old_events import OldEvents
from socketio_eventstore.core.packets import TextEncoder
from support.embedded import Server, serving
from support.small_disks import fill, small_disk
from support.storing import always, append, commit, event, opened, session

SECRET = "sécret-of-one-person"
REDACTED = Redacted(2, "redacted", '["redacted"]')


async def is_incomplete(log: EventLog) -> bool:
    summary = await log.summarise_missed("/", always("a"), 0, log.head, max_events=9, max_bytes=10**9)
    return summary.is_incomplete


def content(path: Path) -> bytes:
    return b"".join(file.read_bytes() for file in path.parent.glob(f"{path.name}*"))


@pytest.mark.parametrize("size", [1, 20_000], ids=["one page", "many pages"])
async def test_content_leaves_the_files(path: Path, size: int) -> None:
    """Payload and attachments are neither in the database nor in its WAL; the rest of the log is."""
    secret, kept = SECRET * size, "kept-by-others"
    async with opened(path) as log:
        await commit(log, [session(), event(kept, rooms=("a",))])
        await commit(log, [event(secret, rooms=("a",), attachments=(secret.encode(),))])
        await commit(log, [event(kept, rooms=("a",)) for _ in range(20)])
        assert SECRET.encode() in content(path)
        batch = await append(log, [REDACTED])
        assert batch.changes[0].took_effect and await log.scrub()
        assert SECRET.encode() not in content(path) and kept.encode() in content(path)
        (found,) = await log.read([2])
        assert (found.event.name, found.event.attachments, found.event.rooms) == ("redacted", (), ("a",))
        with copies.snapshot(path) as connection:
            assert check.check(connection).problems == []


async def test_redaction_is_no_alteration(path: Path) -> None:
    """Triggers take it for no change by another program, and still note such changes; also after a start."""
    async with opened(path) as log:
        await commit(log, [event(SECRET, rooms=("a",), attachments=(b"1",)) for _ in range(3)])
        await append(log, [REDACTED])
        await commit(log, [event()])
        assert not await is_incomplete(log)
        with copies.snapshot(path) as connection:
            assert check.check(connection).notes == []
    async with opened(path) as log:
        assert not await is_incomplete(log)
        await append(log, [REDACTED])
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.execute("DELETE FROM events WHERE offset = 1")
        await commit(log, [event()])
        assert await is_incomplete(log)


async def test_no_event_to_redact(path: Path) -> None:
    async with opened(path) as log:
        await commit(log, [event()])
        assert not (await append(log, [REDACTED])).changes[0].took_effect


async def test_unreadable_event_is_healed(path: Path) -> None:
    """An event that official clients cannot read is readable when it is redacted."""
    async with opened(path) as log:
        await commit(log, [event(), event()._replace(name="connect", payload='["connect"]')])
    async with opened(path) as log:
        old = OldEvents(log, TextEncoder())
        assert await old.unreadable([(1, 2)]) == [2]
        await append(log, [REDACTED])
        await old.replaced(2)
        assert await old.unreadable([(1, 2)]) == []


class SlowAnswers:
    """A log that gives the unreadable events, which it has found, when the test says so."""

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self.has_read, self.goes_on = asyncio.Event(), asyncio.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)

    async def unreadable(self, *arguments: Any) -> list[int]:
        found = await self._log.unreadable(*arguments)
        self.has_read.set()
        await self.goes_on.wait()
        return found


async def test_redaction_while_a_client_returns(path: Path) -> None:
    """A check that has read the former event does not count it afterwards: nobody is poisoned."""
    async with opened(path) as log:
        await commit(log, [event(), event()._replace(name="connect", payload='["connect"]')])
    async with opened(path) as log:
        slow = SlowAnswers(log)
        old = OldEvents(cast("Log", slow), TextEncoder())
        returning = asyncio.create_task(old.unreadable([(1, 2)]))
        await slow.has_read.wait()
        await append(log, [REDACTED])
        redacting = asyncio.create_task(old.replaced(2))
        await asyncio.sleep(0)
        slow.goes_on.set()
        await asyncio.gather(returning, redacting)
        assert await old.unreadable([(1, 2)]) == []


async def test_readers_get_the_replacement(server: Server) -> None:
    """Recent events in memory are replaced: pages and followers of the log show the new arguments."""
    administration = Administration(server.sio)
    offsets = [await server.sio.emit("message", SECRET) for _ in range(2)]
    redacted = await administration.maintenance.redact(offsets[0], arguments=["gone"])
    assert (redacted.offset, redacted.is_scrubbed) == (offsets[0], True)
    wanted = EventFilter(None, None, None)
    history = await administration.events(wanted, after=None, before=None, limit=9)
    assert [one.args for one in history.events] == [["gone"], [SECRET]]
    runtime = await server.sio.manager.opened()
    (_, first, frames, _), _ = runtime.context.recent_events.after(0)
    assert first.name == "redacted" and SECRET not in str(frames.packets)
    assert offsets[0] in str(frames.packets)


async def test_redaction_on_a_full_disk(tmp_path: Path) -> None:
    """The event is replaced, and the answer says that the former content is still in the WAL."""
    with small_disk(disk := tmp_path / "disk", "tmpfs", 20_000_000):
        async with serving(disk / "events.db") as server:
            offsets = [await server.sio.emit("message", SECRET)]
            for _ in range(58):  # the WAL is written from its start again, so that it has room
                await server.sio.emit("message", "x" * 100_000)
            fill(disk / "ballast")
            administration = Administration(server.sio)
            redacted = await administration.maintenance.redact(str(offsets[0]))
            assert not redacted.is_scrubbed
            wanted = EventFilter(None, None, "redacted")
            history = await administration.events(wanted, after=None, before=None, limit=9)
            assert [one.offset for one in history.events] == [offsets[0]]


async def test_refused_redactions(server: Server) -> None:
    """An event that official clients could not read, or no event: the log stays as it is."""
    maintenance = Administration(server.sio).maintenance
    offset = await server.sio.emit("message", "text")
    with pytest.raises(MessageRefused, match="reserved"):
        await maintenance.redact(offset, "connect")
    with pytest.raises(MessageRefused, match="no binary"):
        await maintenance.redact(offset, arguments=[b"1"])
    await server.sio.manager.opened()
    with pytest.raises(EventNotFound):
        await maintenance.redact(offset.rpartition(".")[0] + ".0")
