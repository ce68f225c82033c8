from __future__ import annotations

import sqlite3
from contextlib import closing

from hypothesis import given, settings
from hypothesis import strategies as st

from socketio_eventlog.altered import MAX_RANGES, AlteredRange, AlteredRanges
from socketio_eventlog.index import Index
from socketio_eventlog.segment import audience_ranges
from socketio_eventlog.snapshot import Membership
from socketio_eventlog.sqlite import altered

SEQUENCES = st.integers(1, 40)
SPANS = st.tuples(SEQUENCES, SEQUENCES).map(lambda span: (min(span), max(span)))
ROOMS = st.sampled_from(["a", "b"])
RANGES = st.lists(
    st.builds(
        lambda namespace, span, lost: AlteredRange(namespace, span[0], span[1], lost),
        st.sampled_from(["/", "/other", None]),
        SPANS,
        st.booleans(),
    ),
    max_size=5,
)


@given(st.lists(ROOMS, max_size=40), RANGES, st.lists(st.tuples(ROOMS, SPANS), max_size=3), SEQUENCES, SPANS)
def test_a_session_is_concerned_by_what_it_needs(
    rooms: list[str],
    ranges: list[AlteredRange],
    stays: list[tuple[str, tuple[int, int]]],
    pruned_through: int,
    span: tuple[int, int],
) -> None:
    """A session is concerned by altered events that it has missed, and by all of an unknown audience."""
    index = Index(1_000_000)
    for sequence, room in enumerate(rooms, 1):
        index.add(sequence, "/", [room], 1)
    memberships = [Membership(room, first - 1, last) for room, (first, last) in stays]
    asked = audience_ranges("/", memberships, max(span[0] - 1, pruned_through), span[1])
    known = AlteredRanges(ranges)
    known.drop_through(pruned_through)
    missed = {
        n
        for n in range(max(span[0], pruned_through + 1), span[1] + 1)
        for one in memberships
        if one.covers(n)
    }
    addressed = {
        n
        for n, room in enumerate(rooms, 1)
        for one in memberships
        if n in missed and one.covers(n) and one.room == room
    }
    expected = any(
        not (missed if one.is_audience_lost else addressed).isdisjoint(range(one.first, one.last + 1))
        for one in ranges
        if one.namespace in (None, "/")
    )
    segments = index.overlapping(asked)[0]
    assert known.concern("/", asked, segments) is expected


def test_many_ranges_are_merged() -> None:
    """Ranges beyond the limit are merged with their neighbours, and none is forgotten."""
    ranges = [AlteredRange("/", 10 * n, 10 * n + 1, is_audience_lost=n == 7) for n in range(MAX_RANGES * 3)]
    known = AlteredRanges(ranges)
    assert len(known._ranges) <= MAX_RANGES
    for one in ranges:
        assert any(merged.first <= one.first and one.last <= merged.last for merged in known._ranges)
    assert any(merged.is_audience_lost for merged in known._ranges)


@given(st.sets(SEQUENCES), st.lists(SPANS, max_size=4), st.lists(SPANS, max_size=4), SPANS)
@settings(max_examples=200)
def test_holes_are_what_no_table_explains(
    present: set[int],
    unused: list[tuple[int, int]],
    noted: list[tuple[int, int]],
    span: tuple[int, int],
) -> None:
    after, through = span
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.execute("CREATE TABLE events (offset INTEGER PRIMARY KEY)")
        connection.executemany("INSERT INTO events VALUES (?)", [(n,) for n in present])
        for table, ranges in (("unused_ranges", unused), ("altered_ranges", noted)):
            connection.execute(f"CREATE TABLE {table} (first INTEGER, last INTEGER)")
            connection.executemany(f"INSERT INTO {table} VALUES (?, ?)", ranges)
        holes = list(altered.holes(connection, after, through))
    explained = {n for first, last in unused + noted for n in range(first, last + 1)}
    found = [n for first, last in holes for n in range(first, last + 1)]
    assert found == [n for n in range(after + 1, through + 1) if n not in present | explained]
