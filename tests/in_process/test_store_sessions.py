from __future__ import annotations

from dataclasses import replace

from socketio_eventlog.changes import Change
from socketio_eventlog.events import Offset
from socketio_eventlog.log import Log
from socketio_eventlog.session_changes import DataSaved, SessionBound
from socketio_eventlog.snapshot import Membership, StoredSession
from support.log_engines import Store
from support.storing import commit, ended, event, joined, left, session, stored_sessions


async def only_session(log: Log) -> StoredSession:
    (stored,) = await stored_sessions(log)
    return stored


async def test_a_session_starts_at_the_head(store: Store) -> None:
    """A session starts at the head at its opening."""
    async with store.open() as log:
        await commit(log, [event(), session(former_offset="older.9"), event()])
        assert replace(await only_session(log), claimed_in=0) == StoredSession(
            namespace="/",
            sid="s1",
            pid_hash=session().pid_hash,
            start=Offset(log.node, 1),
            former_offset="older.9",
            data="{}",
            away_since=None,
            confirmed=1,
            memberships=(),
            claim=1,
            node=log.node,
        )


async def test_saved_data_replaces_what_was_saved_before(store: Store) -> None:
    async with store.open() as log:
        await commit(log, [session(), DataSaved("/", "s1", '{"a":1}'), DataSaved("/", "s1", '{"b":2}')])
        assert (await only_session(log)).data == '{"b":2}'


async def test_a_membership_begins_and_ends_at_the_head(store: Store) -> None:
    """A membership begins and ends at the head at its change."""
    async with store.open() as log:
        await commit(
            log,
            [session(), event(), joined("a"), event(), joined("b"), event(), left("a"), event(), joined("a")],
        )
        assert set((await only_session(log)).memberships) == {
            Membership("a", 1, 3),
            Membership("b", 2, None),
            Membership("a", 4, None),
        }


async def test_room_names_keep_their_type(store: Store) -> None:
    async with store.open() as log:
        await commit(log, [session(), joined("42"), joined(42), joined(2**63 - 1), joined("1.0"), left("42")])
        rooms = [membership.room for membership in (await only_session(log)).memberships]
        assert sorted(map(repr, rooms)) == ["'1.0'", "42", "9223372036854775807"]


async def test_a_second_join_keeps_the_beginning(store: Store) -> None:
    """A second join of a room does not move the beginning of the membership."""
    async with store.open() as log:
        await commit(log, [session(), joined("a"), event(), joined("a")])
        assert (await only_session(log)).memberships == (Membership("a", 0, None),)


async def test_leave_and_join_at_one_head_change_nothing(store: Store) -> None:
    """A leave and a join without an event in between leave the membership unchanged."""
    async with store.open() as log:
        await commit(log, [session(), joined("a"), left("a"), joined("a")])
        assert (await only_session(log)).memberships == (Membership("a", 0, None),)


async def test_an_ended_session_leaves_no_rows(store: Store) -> None:
    async with store.open() as log:
        await commit(log, [session("s1"), session("s2"), joined("a", "s1"), joined("a", "s2")])
        await commit(log, [ended()])
        stored = await only_session(log)
        assert (stored.sid, stored.memberships) == ("s2", (Membership("a", 0, None),))
        # A new session with the same sid does not inherit the rooms.
        await commit(log, [session("s1")])
        assert [s.memberships for s in await stored_sessions(log) if s.sid == "s1"] == [()]


async def test_one_sid_in_two_namespaces_is_two_sessions(store: Store) -> None:
    async with store.open() as log:
        await commit(log, [session("s1", "/"), session("s1", "/admin"), joined("a", "s1", "/admin")])
        await commit(log, [ended()])
        assert (await only_session(log)).memberships == (Membership("a", 0, None),)


async def test_a_change_of_an_unknown_session_does_nothing(store: Store) -> None:
    changes: list[Change] = [
        joined("a", "nobody"),
        left("a", "nobody"),
        DataSaved("/", "nobody", "{}"),
        SessionBound("/", "nobody", "ann"),
        ended("nobody"),
    ]
    async with store.open() as log:
        assert await commit(log, changes) == [0] * 5
        await commit(log, [session("nobody")])
        assert (await only_session(log)).memberships == ()


async def test_sessions_load_in_the_order_of_opening(store: Store) -> None:
    sids = [f"s{number}" for number in (5, 3, 9, 1)]
    async with store.open() as log:
        await commit(log, [session(sid) for sid in sids])
    async with store.open() as log:
        assert [stored.sid for stored in await stored_sessions(log)] == sids
