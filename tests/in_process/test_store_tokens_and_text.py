"""What every durable engine keeps of tokens and redacted events, how it searches, and its views."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from socketio_eventlog.changes import Change, Redacted
from socketio_eventlog.history import ROOM_NOT_NAMED
from socketio_eventlog.log import Log
from socketio_eventlog.search import Search
from socketio_eventlog.session_changes import (
    RoomLeft,
    SessionAway,
    SessionBound,
    SessionResumed,
    TokenAccepted,
)
from socketio_eventlog.snapshot import Membership
from support.log_engines import STORES, Store
from support.storing import BEAT, Clock, always, append, commit, event, joined, session, stored_sessions


async def is_incomplete(log: Log) -> bool:
    summary = await log.summarise_missed("/", always("a"), 0, log.head, max_events=9, max_bytes=10**9)
    return summary.is_incomplete


async def test_a_token_stays_with_its_session(store: Store) -> None:
    """The last token of a session is found by another life, also one that came with an acceptance."""
    async with store.open() as log:
        first, second = (TokenAccepted("/", "s1", end, rooms) for end, rooms in ((9.5, ("a", 7)), (None, ())))
        await commit(log, [session(), session("s2"), second, first])
        (found, other) = await stored_sessions(log)
        assert (found.token_expires_at, found.token_rooms) == (9.5, ("a", 7))
        assert (other.token_expires_at, other.token_rooms) == (None, None)
        await commit(log, [SessionResumed("/", "s1", 1, 2_000.0, (second,))])
    async with store.open() as log:
        (found, _) = await stored_sessions(log)
        assert (found.token_expires_at, found.token_rooms) == (None, ())


@pytest.mark.parametrize("rooms", ["[", '"ab"', "[{}]", "[" * 100_000])
async def test_a_token_that_another_program_broke(
    store: Store, rooms: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A start leaves out the session whose rooms cannot be read, says so, and has the others."""
    async with store.open() as log:
        await commit(log, [session(), session("s2"), TokenAccepted("/", "s1", None, ("a",))])
    store.sql(f"UPDATE sessions SET token_rooms = '{rooms}' WHERE sid = 's1'")
    async with store.open() as log:
        assert [found.sid for found in await stored_sessions(log)] == ["s2"]
    assert "session s1 of / has token_rooms that are no JSON array" in caplog.text


async def test_a_membership_ends_before_its_change(store: Store) -> None:
    async with store.open() as log:
        await commit(log, [session(), joined("a"), event(), event(), RoomLeft("/", "s1", "a", through=1)])
        (found,) = await stored_sessions(log)
        assert found.memberships == (Membership("a", 0, 1),)
        history = await log.session_history("/", "s1")
        assert history is not None
        left = history.entries[-1]
        assert (left.kind, left.reason, left.sequence) == ("left", ROOM_NOT_NAMED, 1)


async def test_a_redacted_event_is_no_altered_one(store: Store) -> None:
    """The content is replaced for all readers; a change by another program is noted as before."""
    async with store.open() as log:
        await commit(log, [event("secret", rooms=("a",), attachments=(b"1",)) for _ in range(3)])
        batch = await append(log, [Redacted(2, "gone", '["gone"]'), Redacted(9, "gone", '["gone"]')])
        assert [done.took_effect for done in batch.changes] == [True, False]
        assert await log.scrub()
        await commit(log, [event()])
        assert not await is_incomplete(log)
        (found,) = await log.read([2])
        kept = event(rooms=("a",))
        assert found.event == kept._replace(name="gone", payload='["gone"]')
        store.sql('DELETE FROM events WHERE "offset" = 1')
        await commit(log, [event()])
        assert await is_incomplete(log)


async def test_altered_events_are_known(store: Store) -> None:
    """What another program deletes or changes is known at the next batch, and to another life."""
    async with store.open() as log:
        await commit(log, [event(rooms=(room,)) for room in "abab"])
        store.sql('UPDATE events SET payload = \'["other"]\' WHERE "offset" = 2')
        await commit(log, [event()])
        assert not await is_incomplete(log)
        store.sql('DELETE FROM events WHERE "offset" = 3')
        await commit(log, [event()])
        assert await is_incomplete(log)
    async with store.open() as log:
        assert await is_incomplete(log)


async def test_a_search_finds_text_and_times(store: Store) -> None:
    """Capital letters of ASCII are no different, wildcards of SQL are letters, and times are bounds."""
    async with store.open() as log:
        texts = ["100% Sure", "1000 sure", "ÄRGER", "ärger", "a_b", "axb"]
        await commit(log, [event(text, emitted_at=float(n)) for n, text in enumerate(texts, 1)])
        question = Search(1, log.head, False, max_events=10, max_bytes=10**6, max_rows=100)

        async def find(**wanted: object) -> list[int]:
            found = await log.search(replace(question, **wanted))  # type: ignore[arg-type]
            return [logged.sequence for logged in found.events]

        assert await find(text="SURE") == [1, 2]
        assert await find(text="0% s") == [1]
        assert await find(text="ärger") == [4]
        assert await find(text="a" * 60_000) == []
        assert await find(text="a_b") == [5]
        assert await find(emitted_from=2.0, emitted_before=4.0) == [2, 3]
        assert await find(text="r", newest_first=True, max_events=2) == [3, 4]
        assert await find(among=(1, 3, 5), name="message", namespace="/") == [1, 3, 5]


async def test_views_show_what_waits(store: Store) -> None:
    """People read how long a client may be away, and how many events wait for it."""
    async with store.open(max_disconnection_seconds=60.0) as log:
        opening: list[Change] = [session(), joined("a"), joined(7), SessionBound("/", "s1", "ann")]
        await commit(log, [*opening, SessionAway("/", "s1", 1, 2_000.0, 0), session("s2")])
        rooms = [("a",), ("b", 7), ("s1",), ("7",), None]
        await commit(log, [event(rooms=one) for one in rooms])
        await commit(log, [event(skip=("s1",)), event(namespace="/other"), event(attachments=(b"xyz",))])
        store.clock.now += 2.5
        await commit(log, [BEAT])
        waiting = store.sql("SELECT * FROM waiting_sessions")
        assert waiting == "s1|/|ann|57|5|8\n"
        columns = "sid, state, identity, remaining_seconds, disconnected, data"
        assert store.sql(f"SELECT {columns} FROM current_sessions").splitlines() == [
            "s2|connected||||{}",
            "s1|away|ann|57|1970-01-01T00:33:20.000Z|{}",
        ]
        newest = store.sql('SELECT "offset", rooms, binary_bytes FROM recent_events LIMIT 1')
        assert newest == f"{log.node}.8|(everyone)|3\n"


COLUMNS = {
    "sqlite": """
SELECT m.name, c.name FROM sqlite_master AS m, pragma_table_info(m.name) AS c WHERE m.type = 'view'
""",
    "postgres": """
SELECT table_name, column_name FROM information_schema.columns
JOIN information_schema.views USING (table_schema, table_name)
WHERE table_schema = 'eventstore' ORDER BY ordinal_position
""",
}


async def test_engines_have_the_same_views(tmp_path: Path) -> None:
    """A query for one engine works on the other."""
    found = []
    for name, catalogue in COLUMNS.items():
        store = STORES[name](tmp_path, Clock())
        async with store.open():
            lines = [line.split("|") for line in store.sql(catalogue).splitlines()]
        found.append({view: [column for other, column in lines if other == view] for view, _ in lines})
    assert found[0] == found[1] and len(found[0]) == 4
