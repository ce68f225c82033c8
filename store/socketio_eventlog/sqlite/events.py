"""The rows of ``events`` and ``attachments``. Jobs of a database thread, in the caller's transaction."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from operator import attrgetter
from typing import Any, Final

from socketio_eventlog.changes import Redacted
from socketio_eventlog.event_rows import FEW, as_json, few_as_json, logged_events, rooms_from_json
from socketio_eventlog.events import Event, LoggedEvent, Room
from socketio_eventlog.sqlite import altered

_INSERT: Final = """
INSERT INTO events (offset, emitted_at, namespace, event, rooms, skip, size_bytes, attachments, payload)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
"""
_ATTACHMENTS: Final = attrgetter("attachments")
_INSERT_ATTACHMENT: Final = "INSERT INTO attachments (offset, num, content) VALUES (?, ?, ?)"

_READ: Final = """
SELECT offset, emitted_at, namespace, event, rooms, skip, attachments, payload, size_bytes
FROM json_each(?) CROSS JOIN events ON offset = value ORDER BY offset
"""
_READ_ATTACHMENTS: Final = """
SELECT offset, content FROM json_each(?) CROSS JOIN attachments ON offset = value ORDER BY offset, num
"""
_READ_TIMES: Final = """
SELECT offset, emitted_at FROM json_each(?) CROSS JOIN events ON offset = value ORDER BY offset
"""
_READ_PAYLOADS: Final = """
SELECT offset, payload, attachments FROM events WHERE offset BETWEEN ? AND ? ORDER BY offset
"""
_READ_NEWEST: Final = """
SELECT offset, namespace, rooms, size_bytes FROM events WHERE offset >= ? ORDER BY offset
"""

_REDACT: Final = "UPDATE events SET event = ?, payload = ?, size_bytes = ?, attachments = 0 WHERE offset = ?"
_DELETE_ATTACHMENTS: Final = "DELETE FROM attachments WHERE offset = ?"
# The triggers on both tables do not note the rows up to pruned_through.
_PRUNE: Final = (
    "UPDATE log_state SET pruned_through = max(pruned_through, ?)",
    "DELETE FROM events WHERE offset <= ?",
    "DELETE FROM attachments WHERE offset <= ?",
    "DELETE FROM rooms WHERE left_after <= ?",
)


def insert(connection: sqlite3.Connection, first_sequence: int, events: Sequence[Event]) -> None:
    """Write the events with consecutive sequences."""
    # A list: rows from a generator cost a tenth more, made one by one between the inserts.
    connection.executemany(_INSERT, list(map(_row, count(first_sequence), events)))
    if any(map(_ATTACHMENTS, events)):
        parts = [
            (sequence, num, content)
            for sequence, event in enumerate(events, first_sequence)
            for num, content in enumerate(event.attachments)
        ]
        connection.executemany(_INSERT_ATTACHMENT, parts)


def _row(sequence: int, event: Event) -> tuple[object, ...]:
    namespace, name, payload, attachments, rooms, skip, emitted_at = event  # in half the time of seven names
    return (
        sequence,
        emitted_at,
        namespace,
        name,
        None if rooms is None else few_as_json(rooms) if len(rooms) <= FEW else as_json(rooms),
        None if not skip else few_as_json(skip) if len(skip) <= FEW else as_json(skip),
        event.size_bytes if attachments else len(payload),
        len(attachments),
        payload,
    )


def emission_times(connection: sqlite3.Connection, sequences: Sequence[int]) -> list[tuple[int, float]]:
    """Return the sequences, ascending, each with the time of the event; absent events are left out."""
    return connection.execute(_READ_TIMES, (json.dumps(sorted(set(sequences))),)).fetchall()


def read(
    connection: sqlite3.Connection, sequences: Sequence[int], limit_bytes: int | None = None
) -> list[LoggedEvent]:
    """Read the events with the sequences, ascending, up to the first event beyond the limit.

    Absent events are left out.
    """
    rows = _fetch_until(limit_bytes, connection.execute(_READ, (json.dumps(sorted(set(sequences))),)))
    contents = _read_attachments(connection, [row[0] for row in rows if row[6]])
    return logged_events(rows, contents)


def _fetch_until(limit_bytes: int | None, cursor: sqlite3.Cursor) -> list[tuple[Any, ...]]:
    if limit_bytes is None:
        return cursor.fetchall()
    rows = []
    for row in cursor:
        rows.append(row)
        limit_bytes -= row[-1]
        if limit_bytes < 0:
            break
    cursor.close()
    return rows


def _read_attachments(connection: sqlite3.Connection, sequences: Sequence[int]) -> dict[int, list[bytes]]:
    contents: dict[int, list[bytes]] = {sequence: [] for sequence in sequences}
    if sequences:
        for sequence, content in connection.execute(_READ_ATTACHMENTS, (json.dumps(sequences),)):
            contents[sequence].append(content)
    return contents


def unreadable(
    connection: sqlite3.Connection, first: int, last: int, is_readable: Callable[[str, int], bool]
) -> list[int]:
    """Return the sequences of the events in a range that fail the check."""
    rows = connection.execute(_READ_PAYLOADS, (first, last))
    return [sequence for sequence, payload, attachments in rows if not is_readable(payload, attachments)]


def read_newest(
    connection: sqlite3.Connection, first_sequence: int
) -> Iterator[tuple[int, str, tuple[Room, ...] | None, int]]:
    """Yield sequence, namespace, rooms and size in bytes of the events from ``first_sequence`` on.

    Events changed through SQL are left out.
    """
    changed = altered.sequences(connection, first_sequence)
    for sequence, namespace, rooms, size_bytes in connection.execute(_READ_NEWEST, (first_sequence,)):
        if sequence not in changed:
            yield sequence, namespace, rooms_from_json(rooms), size_bytes


def redact(connection: sqlite3.Connection, change: Redacted) -> bool:
    """Replace the name and the arguments of an event; return whether the event exists.

    The unused parts of the pages do not keep the former content. The index keeps the former size.
    """
    noted = altered.newest(connection)
    connection.execute("PRAGMA secure_delete = ON")
    try:
        values = (change.name, change.payload, len(change.payload), change.sequence)
        is_there = connection.execute(_REDACT, values).rowcount > 0
        connection.execute(_DELETE_ATTACHMENTS, (change.sequence,))
    finally:
        connection.execute("PRAGMA secure_delete = FAST")
    altered.forget_since(connection, noted)  # the triggers take the change for a change of another program
    return is_there


def prune(connection: sqlite3.Connection, through: int) -> None:
    """Delete the events up to a sequence, with their attachments, and memberships that ended before."""
    for statement in _PRUNE:
        connection.execute(statement, (through,))
