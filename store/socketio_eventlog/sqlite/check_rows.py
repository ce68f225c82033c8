"""Checks of the rows: statements that find rows which break a promise of the log."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from typing import Final, NamedTuple


class RowCheck(NamedTuple):
    """A statement that selects the rows with a broken promise, and a sentence for each row."""

    sql: str
    text: str
    """A format for the columns of the row."""


# JSON is compared in Python below: SQLite reads less deeply nested texts than clients do.
_PAYLOADS: Final = """
SELECT offset, event, payload FROM events
WHERE CASE WHEN json_valid(payload) THEN CAST(json_extract(payload, '$[0]') AS TEXT) IS NOT event ELSE 1 END
"""
CHECKS: Final[dict[str, tuple[RowCheck, ...]]] = {
    "events": (
        RowCheck(
            "SELECT offset FROM events WHERE offset <= :pruned", "event {} is there, although it was pruned"
        ),
        RowCheck(
            """
SELECT offset, size_bytes FROM events
WHERE size_bytes <> length(payload) + coalesce(
  (SELECT sum(length(content)) FROM attachments WHERE attachments.offset = events.offset), 0)
""",
            "event {} has another size than its size_bytes, {}",
        ),
        RowCheck(
            """
SELECT offset FROM events
WHERE (rooms IS NOT NULL AND CASE WHEN json_valid(rooms) THEN json_type(rooms) END IS NOT 'array')
   OR (skip IS NOT NULL AND CASE WHEN json_valid(skip) THEN json_type(skip) END IS NOT 'array')
""",
            "event {} has rooms or sids to skip that are no JSON array",
        ),
    ),
    "attachments": (
        RowCheck(
            """
SELECT offset, attachments FROM events
WHERE attachments <> (SELECT count(*) FROM attachments AS a
                      WHERE a.offset = events.offset AND a.num < events.attachments)
   OR EXISTS (SELECT 1 FROM attachments AS a WHERE a.offset = events.offset AND a.num >= events.attachments)
""",
            "event {} has not the attachments 0 to {}, without the last",
        ),
        RowCheck(
            """
SELECT DISTINCT offset FROM attachments
WHERE NOT EXISTS (SELECT 1 FROM events WHERE events.offset = attachments.offset)
""",
            "there are attachments of event {}, which is not there",
        ),
    ),
    "epochs": (
        RowCheck(
            """
SELECT boot FROM (SELECT boot, began_after, lag(began_after) OVER (ORDER BY number) AS former FROM boots)
WHERE began_after < former
""",
            "epoch {} began before the one before it",
        ),
        RowCheck("SELECT count(*) FROM boots HAVING count(*) = 0", "no epoch is recorded ({} rows)"),
    ),
    "sessions": (
        RowCheck(
            """
SELECT sid, namespace FROM sessions
WHERE start_boot NOT IN (SELECT boot FROM boots) OR start_offset > :head
   OR confirmed < start_offset OR confirmed > :head
""",
            "session {} of {} has a start or a confirmed offset outside of the log",
        ),
        RowCheck(
            "SELECT sid, namespace FROM sessions WHERE length(pid_hash) <> 32 OR claim < 1",
            "session {} of {} has no valid pid_hash or claim",
        ),
        RowCheck(
            "SELECT min(sid), count(*) FROM sessions GROUP BY namespace, pid_hash HAVING count(*) > 1",
            "session {} has the same pid_hash as others: {} together",
        ),
    ),
    "memberships": (
        RowCheck(
            """
SELECT room, sid, namespace FROM rooms
WHERE NOT EXISTS (SELECT 1 FROM sessions
                  WHERE sessions.namespace = rooms.namespace AND sessions.sid = rooms.sid)
""",
            "room {} has a member {} of {}, whose session is not there",
        ),
        RowCheck(
            """
SELECT room, sid, rooms.namespace FROM rooms JOIN sessions USING (namespace, sid)
WHERE joined_after < start_offset OR joined_after > :head OR left_after > :head OR left_after < joined_after
""",
            "the membership of room {} of {} of {} does not fit the log",
        ),
        RowCheck(
            """
SELECT room, sid, namespace FROM (
  SELECT *, lag(coalesce(left_after, :head + 1)) OVER (PARTITION BY namespace, sid, room
                                                       ORDER BY joined_after) AS former
  FROM rooms)
WHERE joined_after < former
""",
            "room {} has two memberships of {} of {} at one time",
        ),
    ),
}
"""By title; the parameters are ``head`` and ``pruned``."""


def check(connection: sqlite3.Connection, title: str, head: int, pruned_through: int) -> Iterator[str]:
    """Yield a sentence for each row that breaks a promise."""
    parameters = {"head": head, "pruned": pruned_through}
    for one in CHECKS[title]:
        for row in connection.execute(one.sql, parameters):
            yield f"{title}: {one.text.format(*row)}"
    if title == "events":
        yield from _payloads(connection)
    if title == "sessions":
        for sid, data in connection.execute("SELECT sid, data FROM sessions"):
            if not isinstance(_parsed(data), dict):
                yield f"sessions: session {sid} has data that are no JSON object"


def _payloads(connection: sqlite3.Connection) -> Iterator[str]:
    for offset, name, payload in connection.execute(_PAYLOADS):
        parsed = _parsed(payload)
        if not isinstance(parsed, list) or not parsed or str(parsed[0]) != name:
            yield f"events: event {offset} has a payload that is no JSON array which begins with its name"


def _parsed(text: str) -> object:
    try:
        return json.loads(text)
    except RecursionError:  # nested more deeply than Python reads; clients do
        return _beginning(text)
    except ValueError:
        return None


def _beginning(text: str) -> object:
    """Return an array with only the name of an event; an empty object for a text that is no event."""
    if not text.startswith('["'):
        return {}
    try:
        return [json.JSONDecoder().raw_decode(text, 1)[0]]
    except ValueError:
        return None
