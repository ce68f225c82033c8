from __future__ import annotations

import asyncio
from itertools import chain
from pathlib import Path

import pytest

from socketio_eventlog.errors import OffsetMalformed, OffsetRolledBack, OffsetUnknown
from socketio_eventlog.log import Log
from socketio_eventlog.options import StoreOptions
from socketio_eventlog.records import (
    Change,
    DataSaved,
    Event,
    LoggedEvent,
    Membership,
    Missed,
    Offset,
    SessionAway,
    SessionEnded,
    SessionResumed,
    StoredSession,
)
from socketio_eventlog.segment import SEGMENT_LENGTH
from socketio_eventlog.sqlite.log import EventLog
from support.storing import always, event, joined, left, opened, session


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "events.db"


async def only_session(log: EventLog) -> StoredSession:
    (stored,) = await log.load_sessions()
    return stored


async def test_a_new_log_is_empty(path: Path) -> None:
    async with opened(path) as event_log:
        log: Log = event_log
        assert log.is_durable
        assert (log.head, log.pruned_through, log.uptime_at_open) == (0, 0, 0.0)
        assert await log.counts() == (0, 0)
        assert await log.load_sessions() == []
        assert await log.commit([]) == []


async def test_every_change_learns_the_position_right_after_it(path: Path) -> None:
    async with opened(path) as log:
        changes: list[Change] = [session(), event(), event(), joined("a"), event(), SessionEnded("/", "s1")]
        assert await log.commit(changes) == [0, 1, 2, 2, 3, 3]
        assert await log.commit([event()]) == [4]
        assert log.head == 4
        assert log.offset_at(4) == Offset(log.epoch, 4)


async def test_events_are_read_as_they_were_written(path: Path) -> None:
    events: list[Event] = [
        event("plain"),
        event("rooms", rooms=("a", "42", 42, -(2**70)), skip=("s1", "s2")),
        event("nobody", rooms=()),
        event("binary", attachments=(b"\0\xff", b"", b"x" * 100_000)),
        event("Grüße 中 \U0001f600 \\u0000 'quoted'", namespace="/ä", rooms=("zimmer ü", 'a"b')),
    ]
    async with opened(path) as log:
        await log.commit(events)
        expected = [LoggedEvent(number, event) for number, event in enumerate(events, 1)]
        assert await log.read([1, 2, 3, 4, 5]) == expected
        assert await log.read([5, 99, 2, 5, 0]) == [expected[1], expected[4]]
        assert await log.read([]) == []


async def test_reading_ends_with_the_event_that_passes_the_limit(path: Path) -> None:
    async with opened(path) as log:
        await log.commit([event("x" * 86, attachments=(b"y" * 900,))] * 5)
        for limit_bytes, count in [(0, 1), (999, 1), (1000, 2), (2500, 3), (1_000_000, 5)]:
            assert len(await log.read(range(1, 6), limit_bytes)) == count


async def test_the_missed_events_are_those_that_a_membership_covers(path: Path) -> None:
    async with opened(path) as log:
        await log.commit(
            [event("x", rooms=("a",)), event("y", rooms=("b",)), event("z"), event("w", rooms=("a",))]
        )
        size_bytes = event("x").size_bytes
        memberships = [Membership("a", 0, 3), Membership(None, 0, None)]
        assert await log.missed("/", memberships, 0, 4) == Missed((1, 3), 2 * size_bytes)
        assert log.missed_in_memory("/", memberships, 1, 4) == Missed((3,), size_bytes)
        assert log.missed_in_memory("/other", memberships, 0, 4) == Missed((), 0)


async def test_the_log_goes_on_after_a_restart(path: Path) -> None:
    async with opened(path) as first:
        await first.commit([event("before", rooms=("a",))])
        await first.heartbeat(12.5)
        sent = str(first.offset_at(1))
    async with opened(path) as second:
        assert second.epoch != first.epoch
        assert (second.head, second.uptime_at_open) == (1, 12.5)
        assert await second.commit([event("after", rooms=("a",))]) == [2]
        assert second.locate(sent) == Offset(first.epoch, 1)
        assert second.missed_in_memory("/", always("a"), 0, 2) == await second.missed("/", always("a"), 0, 2)
        assert (await second.missed("/", always("a"), 0, 2)).sequences == (1, 2)
        assert second.precedes_epoch(first.epoch, second.epoch)
        assert not second.precedes_epoch(second.epoch, first.epoch)
        assert [str(second.offset_of(number)) for number in (1, 2)] == [sent, f"{second.epoch}.2"]


async def test_the_service_time_adds_up_over_boots_that_never_beat(path: Path) -> None:
    async with opened(path) as log:
        await log.heartbeat(7.0)
    async with opened(path):
        pass
    async with opened(path) as log:
        assert log.uptime_at_open == 7.0


async def test_offsets_that_this_log_never_gave_out_are_refused(path: Path) -> None:
    async with opened(path) as log:
        await log.commit([event()] * 3)
        assert log.locate(f"{log.epoch}.3") == log.offset_at(3)
        with pytest.raises(OffsetRolledBack):
            log.locate(f"{log.epoch}.4")
        with pytest.raises(OffsetUnknown):
            log.locate("somewhere.3")
        with pytest.raises(OffsetMalformed):
            log.locate("3")


async def test_a_session_begins_at_the_position_at_which_it_was_opened(path: Path) -> None:
    async with opened(path) as log:
        await log.commit([event(), session(former_offset="older.9"), event()])
        assert await only_session(log) == StoredSession(
            namespace="/",
            sid="s1",
            pid_hash=session().pid_hash,
            start=Offset(log.epoch, 1),
            former_offset="older.9",
            data="{}",
            away_since=None,
            confirmed=1,
            memberships=(),
        )


async def test_a_session_goes_away_and_comes_back(path: Path) -> None:
    async with opened(path) as log:
        await log.commit([session(), event(), event(), SessionAway("/", "s1", 2_000.0, 30.0, 2)])
        stored = await only_session(log)
        assert (stored.away_since, stored.confirmed) == (30.0, 2)
        await log.commit([SessionResumed("/", "s1", 2_001.0)])
        stored = await only_session(log)
        assert (stored.away_since, stored.confirmed) == (None, 2)


async def test_what_was_confirmed_once_stays_confirmed(path: Path) -> None:
    async with opened(path) as log:
        await log.commit([event(), event(), session(), SessionAway("/", "s1", 2_000.0, 30.0, 0)])
        assert (await only_session(log)).confirmed == 2


async def test_saved_data_replaces_what_was_saved_before(path: Path) -> None:
    async with opened(path) as log:
        await log.commit([session(), DataSaved("/", "s1", '{"a":1}'), DataSaved("/", "s1", '{"b":2}')])
        assert (await only_session(log)).data == '{"b":2}'


async def test_a_membership_begins_and_ends_at_the_position_of_its_change(path: Path) -> None:
    async with opened(path) as log:
        await log.commit(
            [session(), event(), joined("a"), event(), joined("b"), event(), left("a"), event(), joined("a")]
        )
        assert set((await only_session(log)).memberships) == {
            Membership("a", 1, 3),
            Membership("b", 2, None),
            Membership("a", 4, None),
        }


async def test_room_names_keep_their_type(path: Path) -> None:
    async with opened(path) as log:
        await log.commit([session(), joined("42"), joined(42), joined(2**63 - 1), joined("1.0"), left("42")])
        rooms = [interval.room for interval in (await only_session(log)).memberships]
        assert sorted(map(repr, rooms)) == ["'1.0'", "42", "9223372036854775807"]


async def test_joining_a_room_twice_does_not_move_the_beginning(path: Path) -> None:
    async with opened(path) as log:
        await log.commit([session(), joined("a"), event(), joined("a")])
        assert (await only_session(log)).memberships == (Membership("a", 0, None),)


async def test_leaving_and_joining_at_one_position_is_as_if_nothing_had_happened(path: Path) -> None:
    async with opened(path) as log:
        await log.commit([session(), joined("a"), left("a"), joined("a")])
        assert (await only_session(log)).memberships == (Membership("a", 0, None),)


async def test_a_session_that_ended_leaves_nothing_behind(path: Path) -> None:
    async with opened(path) as log:
        await log.commit([session("s1"), session("s2"), joined("a", "s1"), joined("a", "s2")])
        await log.commit([SessionEnded("/", "s1")])
        stored = await only_session(log)
        assert (stored.sid, stored.memberships) == ("s2", (Membership("a", 0, None),))
        # The sid can be opened again, and does not inherit the rooms.
        await log.commit([session("s1")])
        assert [s.memberships for s in await log.load_sessions() if s.sid == "s1"] == [()]


async def test_one_sid_in_two_namespaces_is_two_sessions(path: Path) -> None:
    async with opened(path) as log:
        await log.commit([session("s1", "/"), session("s1", "/admin"), joined("a", "s1", "/admin")])
        await log.commit([SessionEnded("/", "s1")])
        assert (await only_session(log)).memberships == (Membership("a", 0, None),)


async def test_a_change_of_an_unknown_session_does_nothing(path: Path) -> None:
    changes: list[Change] = [
        joined("a", "nobody"),
        left("a", "nobody"),
        DataSaved("/", "nobody", "{}"),
        SessionAway("/", "nobody", 1.0, 1.0, 0),
        SessionResumed("/", "nobody", 1.0),
        SessionEnded("/", "nobody"),
    ]
    async with opened(path) as log:
        assert await log.commit(changes) == [0] * 6
        await log.commit([session("nobody")])
        assert (await only_session(log)).memberships == ()


async def test_sessions_come_back_in_the_order_in_which_they_were_opened(path: Path) -> None:
    sids = [f"s{number}" for number in (5, 3, 9, 1)]
    async with opened(path) as log:
        await log.commit([session(sid) for sid in sids])
    async with opened(path) as log:
        assert [stored.sid for stored in await log.load_sessions()] == sids


async def test_commits_at_the_same_time_get_numbers_of_their_own(path: Path) -> None:
    async with opened(path) as log:
        batches = await asyncio.gather(*(log.commit([event(), event()]) for _ in range(50)))
        assert sorted(chain.from_iterable(batches)) == list(range(1, 101))
        assert log.head == 100


async def test_a_commit_goes_on_when_nobody_waits_for_it_any_more(path: Path) -> None:
    async with opened(path) as log:
        waiting = asyncio.ensure_future(log.commit([event(rooms=("a",))]))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert await log.commit([event(rooms=("a",))]) == [2]
        assert log.head == 2
        assert (await log.missed("/", always("a"), 0, 2)).sequences == (1, 2)


async def test_an_index_without_memory_finds_the_same(path: Path) -> None:
    total = 3 * SEGMENT_LENGTH
    async with opened(path, index_memory=0) as log:
        for start in range(0, total, 1024):
            await log.commit([event(rooms=(f"r{n % 3}", "ü")) for n in range(start, start + 1024)])
        assert log.missed_in_memory("/", always("r1"), 0, total) is None
        await assert_every_third(log, total)
        assert log.missed_in_memory("/", always("r1"), total - 3, total) is not None
        few = await log.missed("/", always("ü"), 0, total, at_most=10)
        assert 10 < len(few.sequences) <= SEGMENT_LENGTH
    for index_memory in (0, 50_000, 64_000_000):
        async with opened(path, index_memory=index_memory) as log:
            await assert_every_third(log, total)
    async with opened(path) as log:
        assert log.missed_in_memory("/", always("r1"), 0, total) is not None


async def assert_every_third(log: EventLog, total: int) -> None:
    for after, through in [(0, total), (5000, 9000), (0, 1), (total - 1, total)]:
        expected = tuple(n for n in range(1, total + 1) if n % 3 == 2 and after < n <= through)
        size_bytes = event().size_bytes * len(expected)
        assert await log.missed("/", always("r1"), after, through) == Missed(expected, size_bytes)


async def test_an_index_that_a_restart_found_half_written_is_completed(path: Path) -> None:
    async with opened(path, index_memory=0) as log:
        for start in range(0, SEGMENT_LENGTH, 1024):
            await log.commit([event(rooms=(f"r{n}",)) for n in range(start + 1, start + 1025)])
        await log.commit([event()])
        assert log.missed_in_memory("/", always("r1"), 0, log.head) is not None
    async with opened(path, index_memory=0) as log:
        for _ in range(20):
            await log.commit([event()])
        assert log.missed_in_memory("/", always("r1"), 0, log.head) is None
        for number in (1, 255, 256, 257, 2000, SEGMENT_LENGTH - 1):
            assert (await log.missed("/", always(f"r{number}"), 0, log.head)).sequences == (number,)


async def test_a_log_without_a_path_is_a_mistake() -> None:
    """The options of a server without recovery cannot open a durable log."""
    with pytest.raises(ValueError, match="needs a path"):
        await EventLog.open(StoreOptions(path=None))
